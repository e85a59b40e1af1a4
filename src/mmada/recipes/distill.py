"""Recipe for self-distillation: train a model to unmask more tokens per forward pass (certainty forcing: dParallel, d3LLM).

The training inputs are decoding states of the model's own correct answers, as fast decoding meets them. The targets are the final
tokens of the current block, and the entropy of correctly predicted positions is penalised. Reference answers in blocks correct
confident errors, and replay of the data of the stage before prevents forgetting.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from mmada.canvas import MODALITIES, Canvas, Modality
from mmada.data.dataset import Sampler
from mmada.diffusion.forward_process import ForwardProcess, corrupt
from mmada.errors import InputError, check_choice, check_number, check_whole
from mmada.pipeline.known_checkpoints import known_checkpoint
from mmada.recipes.sft import SftRecipe
from mmada.recipes.trajectories import AnswerSource, DecodedAnswer, in_blocks, stored_answers
from mmada.sampling import Acceleration

__all__ = ["EVERYTHING", "DistillRecipe"]

Random = np.random.Generator
EVERYTHING = ForwardProcess(min_ratio=1.0, weight="none")
"""Masks all editable positions; a decoding state marks as editable the positions to learn."""


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(SftRecipe):
    """A distillation stage: its examples are decoding states, so the forward process masks all editable positions.

    ``trajectories``: number of the model's own correct answers to collect from each source, ``parallel``: the unmasking rule of
    their decoding. ``trajectory_weights``: weights of the sources, ``block_weights``: weights of data sets whose reference
    answers are learned in blocks, ``replay_weight``: weight of the curriculum's mixture, masked by ``text_noise`` and
    ``image_noise``.
    """

    trajectories: Mapping[str, int]
    trajectory_weights: Mapping[str, float]
    block_weights: Mapping[str, float]
    replay_weight: float
    parallel: str = "threshold=0.9"
    text_noise: ForwardProcess = field(default_factory=lambda: ForwardProcess(min_ratio=0.1, weight="none"))
    image_noise: ForwardProcess = field(default_factory=ForwardProcess.released_image)

    def __post_init__(self) -> None:
        super().__post_init__()
        Acceleration.of(self.parallel)  # raises for an unknown rule
        known = self.answer_sources()
        for source, count in self.trajectories.items():
            check_choice("trajectories", source, known)
            check_whole(f"trajectories of {source}", count, 0)
        for source in self.trajectory_weights:
            check_choice("trajectory_weights", source, known)
        for kind in self.block_weights:
            check_choice("block_weights", kind, self.dataset_names())
        named = {"replay_weight": self.replay_weight}
        named |= {f"trajectory_weights of {source}": weight for source, weight in self.trajectory_weights.items()}
        named |= {f"block_weights of {kind}": weight for kind, weight in self.block_weights.items()}
        for name, weight in named.items():
            check_number(name, weight)
        if not self.weights_by_origin():
            raise InputError("trajectory_weights, block_weights and replay_weight are all 0; give at least one of them a weight")

    @abstractmethod
    def answer_sources(self) -> Mapping[str, AnswerSource]:
        """Sources of the model's own correct answers by name, which supply prompts and judge answers."""

    def run(self, *, out: Path, resume: bool, start: Path | None) -> Path:
        """As `SftRecipe.run`."""
        for source, weight in self.trajectory_weights.items():  # checked here, as overrides set the two one by one
            if weight > 0 and not self.trajectories.get(source):
                raise InputError(
                    f"trajectory_weights gives {source} the weight {weight:g}, but there are no trajectories of it; "
                    f"set trajectories={{{source}: 500}}"
                )
        if start is not None and not (start / "config.json").is_file():
            raise InputError(f"start {start} holds no trained model, only an image tokenizer; give the model to distill")
        return super().run(out=out, resume=resume, start=start)

    def weights_by_origin(self) -> dict[tuple[str, str], float]:
        """(origin, name) -> weight, for weights above 0."""
        pairs = {("trajectory", s): w for s, w in self.trajectory_weights.items()}
        pairs |= {("block", k): w for k, w in self.block_weights.items()}
        return {key: weight for key, weight in {**pairs, ("replay", ""): self.replay_weight}.items() if weight > 0}

    def examples(self, sampler: Sampler, start: Path, cache: Path) -> Callable[[int, Random], Iterator[Canvas]]:
        """As `SftRecipe.examples`."""
        speed = Acceleration.of(self.parallel)
        answers = stored_answers(start, speed, self.answer_sources(), self.trajectories, self.plan.seed, cache / "trajectories")
        block = known_checkpoint(start).preset.reasoning.numbers[2]
        return lambda step, rng: sampler.fitting(self.states(sampler, answers, block, step, rng))

    def states(
        self, sampler: Sampler, answers: Mapping[str, list[DecodedAnswer]], block: int, step: int, rng: Random
    ) -> Iterator[Canvas]:
        """Training states: canvases whose editable positions will all be masked."""
        keys, weights = zip(*self.weights_by_origin().items(), strict=True)
        shares = np.array(weights) / sum(weights)
        mask = sampler.formatter.prompter.vocabulary.mask
        replayed = sampler.canvases(self.mixture(step), rng)
        while True:
            origin, name = keys[int(rng.choice(len(keys), p=shares))]
            if origin == "trajectory":
                yield answers[name][int(rng.integers(len(answers[name])))].state(rng, mask)
            elif origin == "block":
                yield in_blocks(next(sampler.canvases({name: 1.0}, rng)), block, rng, mask)
            else:
                yield self.noised(next(replayed), rng, mask)

    def noised(self, canvas: Canvas, rng: Random, mask: int) -> Canvas:
        """The canvas with a random subset of positions editable, drawn by the forward process of each modality."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        times_S = torch.tensor([rng.random()])
        masked_BL = torch.zeros_like(canvas.editable_BL)
        noises: dict[Modality, ForwardProcess] = {"text": self.text_noise, "image": self.image_noise}
        for modality in MODALITIES:
            editable_BL = canvas.positions(modality)
            if bool(editable_BL.any()):
                one_BL = torch.ones_like(canvas.tokens_BL)  # a single example
                masked_BL |= corrupt(
                    canvas.tokens_BL, editable_BL, one_BL, mask_id=mask, process=noises[modality], generator=generator,
                    times_S=times_S,
                ).masked_BL  # fmt: skip
        return replace(canvas, editable_BL=masked_BL)
