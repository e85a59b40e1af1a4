"""Rollouts: sampled completions of prompts, with the step at which every token was decided.

    rollouts = roll_out(model, prompts, group_size=8, seed=7)     # 8 completions per prompt, in consecutive rows

The canvas of a prompt is built once and repeated for its group, so that a prompt is tokenised once and its picture encoded once.

Shapes: B rows (prompts x G), L positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmada.canvas import TEXT, Canvas, Trajectory
from mmada.errors import InputError, check_whole
from mmada.pipeline import MMaDA
from mmada.pipeline.engine import Engine
from mmada.pipeline.grids import Grid
from mmada.pipeline.options import ImageSampling, TextSampling
from mmada.pipeline.preset import Preset
from mmada.sampling import Phase, denoise
from mmada.tasks.task import Completion, Prompt
from mmada.tokenizers.prompt import Message, split_thinking
from mmada.tokenizers.vocabulary import Vocabulary

__all__ = ["RolloutSampling", "Rollouts", "diversity", "roll_out"]


UNUSED_TEXT = {
    "guidance": "are sampled from the policy alone",
    "stop": "end at their end token",
    "stop_at_eos": "end at their end token",
    "open_vocabulary": "are of text tokens",
}
"""Text options that rollouts do not support, and why."""
UNUSED_IMAGE = {"size": "are of the size that the model was trained on"}
"""Image options that rollouts do not support, and why."""


@dataclass(frozen=True, kw_only=True)
class RolloutSampling:
    """Sampling options of completions.

    ``text``, ``image``: options of texts and of pictures; None takes the value of the model's preset, except for the temperature,
    which is then 1. Temperatures must be above 0, or all completions of a group would be equal. ``image_thinking``: a thought is
    sampled before each picture, on the same canvas. ``batch``: rows denoised together. A text stops early, at its end token.
    """

    text: TextSampling = field(default_factory=TextSampling)
    image: ImageSampling = field(default_factory=lambda: ImageSampling(guidance=2.0))
    image_thinking: bool = False
    batch: int = 64

    def __post_init__(self) -> None:
        for name, options, unused in (("text", self.text, UNUSED_TEXT), ("image", self.image, UNUSED_IMAGE)):
            if options.temperature == 0:
                raise InputError(
                    f"sampling.{name}.temperature is 0, so all completions of a prompt would be the same; give one above 0"
                )
            if extra := [option for option in options.given if option in unused]:
                raise InputError(
                    f"sampling.{name}.{extra[0]} has no meaning for rollouts, which {unused[extra[0]]}; leave it out"
                )
        check_whole("sampling.batch", self.batch, 1)

    def text_plan(self, preset: Preset) -> TextSampling:
        """The complete options of an answer with reasoning. Raises InputError if they contradict each other."""
        return replace(self.text, temperature=self.text.temperature or 1.0).over(preset.reasoning)

    def image_plan(self, preset: Preset) -> ImageSampling:
        """The complete options of a picture."""
        return replace(self.image, temperature=self.image.temperature or 1.0).over(preset.image)

    def check_fits(self, preset: Preset, max_length: int) -> None:
        """Raise InputError if a model with ``max_length`` positions cannot be sampled with these options."""
        if self.text.length is not None:
            check_whole("sampling.text.length", self.text.length, 1, max_length - 1)
        try:
            self.text_plan(preset)
        except InputError as error:
            raise InputError(f"sampling with the model's preset: {error}") from error


@dataclass(frozen=True)
class Rollouts:
    """Finished completions and their sampling steps, for training.

    ``canvas``: its editable positions are the completions, without end-of-text padding. ``decided_BL``: int64, the step of the
    loop that decided each position, from 1, for the padding after the end too; 0 in the context.
    """

    canvas: Canvas
    decided_BL: Tensor
    completions: tuple[Completion, ...]

    @property
    def length_B(self) -> Tensor:
        """Number of tokens of each completion."""
        return self.canvas.editable_BL.sum(1)

    @staticmethod
    def join(parts: Sequence[Rollouts]) -> Rollouts:
        """One batch from several, the shorter rows padded."""
        canvas = Canvas.stack([part.canvas for part in parts])
        decided = [torch.nn.functional.pad(p.decided_BL, (0, canvas.length - p.canvas.length)) for p in parts]
        return Rollouts(canvas, torch.cat(decided), tuple(c for part in parts for c in part.completions))


def roll_out(
    model: MMaDA, prompts: Sequence[Prompt], *, group_size: int, seed: int, sampling: RolloutSampling | None = None
) -> Rollouts:
    """``group_size`` completions of every prompt; prompts of several tasks may be mixed. Row i depends on (weights, prompt,
    seed, i).

    Raises InputError for a prompt that does not fit the model.
    """
    sampler = RolloutSampler(model, RolloutSampling() if sampling is None else sampling)
    check_whole("group_size", group_size, 1)
    canvases = sampler.canvases(prompts)
    rows = [index for index in range(len(prompts)) for _ in range(group_size)]
    seeds = np.random.SeedSequence(seed).generate_state(len(rows), np.uint64) >> np.uint64(2)
    parts: dict[int, Rollouts] = {}
    for kind in dict.fromkeys(kind_of(prompt) for prompt in prompts):
        mine = [row for row, index in enumerate(rows) if kind_of(prompts[index]) == kind]
        for start in range(0, len(mine), sampler.sampling.batch):
            some = mine[start : start + sampler.sampling.batch]
            batch = [(prompts[rows[i]], canvases[rows[i]]) for i in some]
            generators = model.engine.generators([int(seeds[i]) for i in some], len(some))
            parts |= dict(zip(some, sampler.complete(batch, generators), strict=True))
    return Rollouts.join([parts[row] for row in range(len(rows))])


def kind_of(prompt: Prompt) -> tuple[str, bool]:
    """Properties that prompts of one batch share: the modality of the completion, and whether there is a picture to read."""
    return prompt.task.output, bool(prompt.images)


@dataclass(frozen=True)
class RolloutSampler:
    """A model with its sampling options: builds the canvases of prompts and completes them."""

    model: MMaDA
    sampling: RolloutSampling

    @property
    def engine(self) -> Engine:
        """The engine of the model."""
        return self.model.engine

    @property
    def thought_length(self) -> int:
        """Tokens of the thought before a picture."""
        return self.model.preset.thought.numbers[0] if self.sampling.image_thinking else 0

    @property
    def text_plan(self) -> TextSampling:
        """The complete options of an answer with reasoning. Raises InputError if they contradict each other."""
        return self.sampling.text_plan(self.model.preset)

    def canvases(self, prompts: Sequence[Prompt]) -> list[Canvas]:
        """The canvas of each prompt, with all positions to be sampled masked."""
        made = []
        for prompt, images in zip(prompts, self.codes(prompts), strict=True):
            if prompt.task.output == "image":
                canvas = self.drawing(prompt.text, self.thought_length)
            else:
                canvas = self.engine.prompter.chat(
                    [Message("user", prompt.text)],
                    images=images,
                    thinking=True,
                    answer_length=self.text_plan.numbers[0],
                )
            self.engine.check_length(canvas)
            made.append(canvas)
        return made

    def codes(self, prompts: Sequence[Prompt]) -> Iterator[list[Grid]]:
        """The codes of the pictures of each prompt; each picture is encoded once."""
        pictures = [picture for prompt in prompts for picture in prompt.images]
        codes: list[Grid] = []
        for start in range(0, len(pictures), self.sampling.batch):
            codes += self.engine.look(pictures[start : start + self.sampling.batch], self.model.preset.fit)[0]
        remaining = iter(codes)
        for prompt in prompts:
            yield list(islice(remaining, len(prompt.images)))

    def drawing(self, text: str, thought_length: int) -> Canvas:
        """A canvas with a caption, masked positions for a thought, and a masked picture."""
        rows, columns = self.engine.shape(None)
        return self.engine.prompter.draw(text, codes=[-1] * (rows * columns), think_length=thought_length)

    def complete(self, batch: Sequence[tuple[Prompt, Canvas]], generators: Sequence[torch.Generator]) -> list[Rollouts]:
        """Complete canvases of one kind as one batch; rollouts of one row each."""
        engine = self.engine
        drawing = batch[0][0].task.output == "image"
        phases = self.image_phases() if drawing else [self.text_phase()]
        guided = any(phase.guidance.scale > 0 for phase in phases)
        blank = Canvas.stack([self.drawing("", 0)] * len(batch)).to(engine.canvas_device) if guided else None
        *_, last = denoise(
            engine.denoiser,
            Canvas.stack([canvas for _, canvas in batch]).to(engine.canvas_device),
            phases,
            vocabulary=engine.parts.vocabulary,
            generators=generators,
            unconditional=blank,
            fixed_shape=engine.fixed_shape,
        )
        pictures: Sequence[Image.Image | None] = [None] * len(batch)
        if drawing:
            pictures = engine.decode(engine.codes(last.canvas, engine.shape(None)))
        made = []
        for row, ((prompt, _), picture) in enumerate(zip(batch, pictures, strict=True)):
            trajectory = last.row(row).trajectory
            canvas, decided_BL = finished(trajectory, engine.parts.vocabulary)
            raw_text = engine.parts.text.decode(text_of(canvas, engine.parts.vocabulary))
            answer = "" if drawing else split_thinking(raw_text)[0]
            made.append(Rollouts(canvas, decided_BL, (Completion(prompt, raw_text, answer, picture),)))
        return made

    def text_phase(self) -> Phase:
        """Answers with reasoning.

        Training computes likelihoods over the text range, up to the end token. Sampling is therefore limited to that range and
        stops there, even where the preset of a released checkpoint does otherwise.
        """
        plan = replace(self.text_plan, stop_at_eos=True, open_vocabulary=False)
        return plan.phase((self.engine.parts.vocabulary.eot, self.engine.parts.vocabulary.eos))

    def image_phases(self) -> list[Phase]:
        """The phases of a picture, after those of a thought with ``image_thinking``."""
        phases = [self.sampling.image_plan(self.model.preset).phase()]
        if self.sampling.image_thinking:
            phases.insert(0, self.model.preset.thought.phase((self.engine.parts.vocabulary.eos,)))
        return phases


def finished(trajectory: Trajectory, vocabulary: Vocabulary) -> tuple[Canvas, Tensor]:
    """One completed row on the CPU with its steps, only its completion editable: a text ends with its end token."""
    canvas, decided_BL = trajectory.canvas.to("cpu"), trajectory.decided_BL.to("cpu")
    text_BL = canvas.modality_BL == TEXT
    ends_BL = torch.isin(canvas.tokens_BL, torch.tensor([vocabulary.eot, vocabulary.eos])) & canvas.editable_BL & text_BL
    padding_BL = (ends_BL.cumsum(1) - ends_BL.long() > 0) & text_BL
    # Padding that was filled when the row had ended counts as one step more, so that all of it was masked until then.
    late_BL = canvas.editable_BL & (decided_BL == 0)
    decided_BL = decided_BL.masked_fill(late_BL, int(decided_BL.max()) + 1)
    return replace(canvas, editable_BL=canvas.editable_BL & ~padding_BL), decided_BL


def text_of(canvas: Canvas, vocabulary: Vocabulary) -> list[int]:
    """Tokens of the text of one finished row, without its end token."""
    tokens: list[int] = canvas.tokens_BL[canvas.positions("text")].tolist()
    return tokens[:-1] if tokens and tokens[-1] in (vocabulary.eot, vocabulary.eos) else tokens


def diversity(canvas: Canvas) -> float:
    """Diversity of a group: the share of its pairs of completions that differ, 0 (all the same) to 1."""
    rows = [tuple(tokens[inside].tolist()) for tokens, inside in zip(canvas.tokens_BL, canvas.editable_BL, strict=True)]
    pairs = [(a, b) for i, a in enumerate(rows) for b in rows[:i]]
    return sum(a != b for a, b in pairs) / max(1, len(pairs))
