"""Recipe `distill`: teach a model to decide more tokens a pass (certainty-forcing distillation, as in dParallel and d3LLM).

It learns on states of its own right answers, the ones that fast decoding meets: what the masks at work became is the target, and
places that it predicts right are pushed to be surer of it. True answers in blocks correct it where it is sure and wrong; a share
of the stage before keeps all else as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from mmada.canvas import IMAGE, TEXT, Canvas
from mmada.diffusion.forward_process import ForwardProcess, corrupt
from mmada.errors import InputError, check_choice, check_number, check_whole
from mmada.nano.examples import KINDS, World, fitting, mixed
from mmada.pipeline.known_checkpoints import known_checkpoint
from mmada.recipes.sft import GENTLE, SftRecipe, Stage
from mmada.recipes.trajectories import SOURCES, Trail, in_blocks, kept_trails
from mmada.sampling import Acceleration
from mmada.training.loop import Plan
from mmada.training.masked_diffusion import LossSettings

__all__ = ["DistillRecipe", "distill"]

Random = np.random.Generator
EVERYTHING = ForwardProcess(min_ratio=1.0, weight="none")


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(SftRecipe):
    """A stage whose examples come as states of decoding, so its noise masks whatever is editable.

    ``trails``: how many own answers of each source are collected, ``parallel``: the rule by which they are decoded. ``own``: the
    weights of the sources, ``blocks``: those of kinds of true answers in blocks, ``replay``: that of the curriculum's mixture,
    noised by ``text_noise`` and ``image_noise``.
    """

    trails: Mapping[str, int]
    own: Mapping[str, float]
    blocks: Mapping[str, float]
    replay: float
    parallel: str = "threshold=0.9"
    text_noise: ForwardProcess = field(default_factory=lambda: ForwardProcess(min_ratio=0.1, weight="none"))
    image_noise: ForwardProcess = field(default_factory=ForwardProcess.released_image)

    def __post_init__(self) -> None:
        super().__post_init__()
        Acceleration.of(self.parallel)  # raises for a rule that is none
        for source, count in self.trails.items():
            check_choice("trails", source, SOURCES)
            check_whole(f"trails of {source}", count, 0)
        for source in self.own:
            check_choice("own", source, SOURCES)
        for kind in self.blocks:
            check_choice("blocks", kind, KINDS)
        named = {"replay": self.replay, **{f"own {s}": w for s, w in self.own.items()}}
        for name, weight in (named | {f"blocks {k}": w for k, w in self.blocks.items()}).items():
            check_number(name, weight)
        if not self.weights():
            raise InputError("weights of own, blocks and replay are all 0; give one of them at least")

    def run(self, *, out: Path, resume: bool, start: Path | None) -> Path:
        """As `SftRecipe.run`."""
        for source, weight in self.own.items():  # here, as settings that fit each other come one after another
            if weight > 0 and not self.trails.get(source):
                raise InputError(f"own gives {source} weight {weight:g}, but has no trails of it; set trails={{{source}: 500}}")
        if start is not None and not (start / "config.json").is_file():
            raise InputError(f"start {start} holds no trained model, only an image tokenizer; give the model to distill")
        return super().run(out=out, resume=resume, start=start)

    def weights(self) -> dict[tuple[str, str], float]:
        """(where from, what) -> weight, without those of weight 0."""
        pairs = {("own", s): w for s, w in self.own.items()} | {("blocks", k): w for k, w in self.blocks.items()}
        return {key: weight for key, weight in {**pairs, ("replay", ""): self.replay}.items() if weight > 0}

    def examples(self, world: World, start: Path, cache: Path) -> Callable[[int, Random], Iterator[Canvas]]:
        """As `SftRecipe.examples`."""
        trails = kept_trails(start, Acceleration.of(self.parallel), self.trails, self.plan.seed, cache / "trails")
        block = known_checkpoint(start).preset.reasoning.numbers[2]
        return lambda step, rng: self.states(world, trails, block, step, rng)

    def states(self, world: World, trails: Mapping[str, list[Trail]], block: int, step: int, rng: Random) -> Iterator[Canvas]:
        """Canvases whose editable places are masked, all of them."""
        return fitting(self.any_states(world, trails, block, step, rng), self.row_length)

    def any_states(self, world: World, trails: Mapping[str, list[Trail]], block: int, step: int, rng: Random) -> Iterator[Canvas]:
        """The same, of any length."""
        keys, weights = zip(*self.weights().items(), strict=True)
        shares = np.array(weights) / sum(weights)
        mask = world.prompter.vocabulary.mask
        replayed = mixed(world, self.mixture(step), rng, self.row_length)
        while True:
            origin, name = keys[int(rng.choice(len(keys), p=shares))]
            if origin == "own":
                canvas = trails[name][int(rng.integers(len(trails[name])))].state(rng, mask)
            elif origin == "blocks":
                canvas = in_blocks(next(mixed(world, {name: 1.0}, rng, self.row_length)), block, rng, mask)
            else:
                canvas = self.noised(next(replayed), rng, mask)
            yield canvas

    def noised(self, canvas: Canvas, rng: Random, mask: int) -> Canvas:
        """The canvas with only those places editable that noise masks."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        times_S = torch.tensor([rng.random()])
        masked_BL = torch.zeros_like(canvas.editable_BL)
        for modality, noise in ((TEXT, self.text_noise), (IMAGE, self.image_noise)):
            places_BL = canvas.editable_BL & (canvas.modality_BL == modality)
            if bool(places_BL.any()):
                one_BL = torch.ones_like(canvas.tokens_BL)
                masked_BL |= corrupt(
                    canvas.tokens_BL, places_BL, one_BL, mask_id=mask, process=noise, generator=generator, times_S=times_S
                ).masked_BL
        return replace(canvas, editable_BL=masked_BL)


def distill() -> DistillRecipe:
    """After the last stage: more tokens a pass, in text, questions and pictures, and the rest kept as it was."""
    mixture = {"drawing": 0.2, "digit_drawing": 0.03, "captioning": 0.02, "asking": 0.38, "comparing": 0.15,
               "comparing_told": 0.04, "asking_thinking": 0.06, "digit_asking": 0.02, "knowing": 0.015, "editing": 0.06,
               "equations": 0.02, "calculating_thinking": 0.04, "chatting": 0.01, "thinking_drawing": 0.04,
               "reading": 0.01}  # fmt: skip
    return DistillRecipe(
        name="distill",
        follows="cot",
        plan=Plan(steps=3000, seed=7, optim=replace(GENTLE, lr=3e-4, muon_lr=1.2e-3, decay=0.6, final=0.02), save_every=250,
                  sample_every=500),
        curriculum=(Stage(until=1.0, mixture=mixture),),
        losses=LossSettings(text=EVERYTHING, image=EVERYTHING, text_coefficient=2.0, certainty=0.5),
        trails={"math": 1500, "questions": 1000, "pictures": 400},
        own={"math": 0.2, "questions": 0.12, "pictures": 0.08},
        blocks={"calculating_thinking": 0.15},
        replay=0.45,
    )  # fmt: skip
