"""How a model likes to be sampled: the ``preset.json`` of its folder, and what a call may change of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from mmada.diffusion.schedule import SCHEDULES
from mmada.errors import MAX_STEPS, InputError, check_choice, check_number, check_whole
from mmada.io.atomic import write_text
from mmada.pipeline.grids import Fit
from mmada.sampling import (
    Blocks,
    Greedy,
    Guidance,
    GumbelConfidence,
    LowConfidence,
    MaskSchedule,
    Phase,
    StopAtEos,
    Temperature,
    TokenSampler,
    UniformSchedule,
)
from mmada.tokenizers.prompt import PromptFormat

__all__ = ["ImageSampling", "Preset", "TextSampling", "drawing"]


def drawing(temperature: float) -> TokenSampler:
    """How tokens are drawn at a temperature; 0 takes the most probable."""
    temperature = check_number("temperature", temperature)
    return Greedy() if temperature == 0 else Temperature(temperature)


@dataclass(frozen=True, kw_only=True)
class TextSampling:
    """How a text is decoded: ``length`` tokens in blocks of ``block``, ``steps`` forwards shared evenly by
    the blocks.

    ``stop``: a text ends with the block that holds an end token. ``open_vocabulary``: codes and control tokens
    compete too. The released sampler does not stop and is open.
    """

    length: int
    steps: int
    block: int
    stop: bool = True
    open_vocabulary: bool = False

    def __post_init__(self) -> None:
        for name, most in (("length", None), ("steps", MAX_STEPS), ("block", None)):
            check_whole(name, getattr(self, name), 1, most)
        if self.block > self.length:
            raise InputError(f"block {self.block} is longer than the answer; give 1 to its length, {self.length}")
        if self.steps % self.blocks:
            raise InputError(
                f"steps {self.steps} cannot be shared evenly by {self.blocks} blocks "
                f"(length {self.length}, block {self.block}); give a multiple of {self.blocks}"
            )

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return math.ceil(self.length / self.block)

    def changed(self, *, length: int | None = None, steps: int | None = None, block: int | None = None) -> TextSampling:
        """The plan with other numbers; steps that are not given keep the pace in tokens a step."""
        length = self.length if length is None else check_whole("length", length, 1)
        block = None if block is None else check_whole("block", block, 1)
        steps = None if steps is None else check_whole("steps", steps, 1, MAX_STEPS)
        block = min(self.block, length) if block is None else block
        if steps is None:
            steps = max(1, round(self.steps / self.length * block)) * math.ceil(length / block)
        return replace(self, length=length, steps=steps, block=block)

    def phase(self, ends: tuple[int, ...], temperature: float, guidance: float) -> Phase:
        """The sampling phase; ``ends`` are the tokens that end an answer."""
        return Phase(
            modality="text",
            schedule=UniformSchedule(self.steps // self.blocks),
            remasking=LowConfidence(),
            token_sampler=drawing(temperature),
            guidance=Guidance(check_number("guidance", guidance)),
            blocks=Blocks(self.block),
            stop=StopAtEos(ends) if self.stop else None,
            open_vocabulary=self.open_vocabulary,
        )


@dataclass(frozen=True, kw_only=True)
class ImageSampling:
    """How a picture is decoded.

    ``schedule``: how many places each step decides, by name (`mmada.diffusion.schedule`). The surest places come first, so what
    is left to the end is what the caption leaves open: decided at once, its parts need not agree. ``guidance``: weight of
    classifier-free guidance. ``temperature``: of the draw of codes, 0 takes the most probable. ``order_noise``: noise on the
    order in which places are committed, times the temperature; it is annealed as `GumbelConfidence` says.
    """

    steps: int = 16
    guidance: float = 2.0
    temperature: float = 1.0
    order_noise: float = 1.0
    annealing: Literal["linear", "compounding"] = "linear"
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1, MAX_STEPS)
        check_choice("schedule", self.schedule, SCHEDULES)
        for name in ("guidance", "temperature", "order_noise"):
            check_number(name, getattr(self, name))
        self.phase()  # every choice checks its own numbers

    def changed(
        self, *, steps: int | None = None, guidance: float | None = None, temperature: float | None = None
    ) -> ImageSampling:
        """The plan with other numbers."""
        given = {"steps": steps, "guidance": guidance, "temperature": temperature}
        return replace(self, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    def phase(self) -> Phase:
        """The sampling phase."""
        return Phase(
            modality="image",
            schedule=MaskSchedule(SCHEDULES[self.schedule], self.steps),
            remasking=GumbelConfidence(self.order_noise * self.temperature, self.annealing),
            token_sampler=drawing(self.temperature),
            guidance=Guidance(self.guidance),
        )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What ``preset.json`` holds.

    ``cot_instruction``: the words before a message that ask for reasoning, as in training. ``answer``,
    ``reasoning``, ``thought``: plans for direct answers, for answers with reasoning, and for the thought
    before a picture. ``ask_thinking``: whether questions about pictures are reasoned on by default.
    ``max_length``: longest canvas, in tokens. ``image_size``: height and width of a picture in pixels, None as
    the image tokenizer was trained. ``fit``: how a picture of another shape becomes a square: its middle
    ("crop"), all of it out of proportion ("squash") or with white beside it ("pad"). ``dtype``: of the weights;
    "stored" is what the file has. ``image_dtype``: of the image tokenizer; in half precision some codes
    change (benchmarks/image_types.py). ``prompt_format``: quirks of the prompts.
    """

    cot_instruction: str
    answer: TextSampling = field(default_factory=lambda: TextSampling(length=16, steps=16, block=16))
    reasoning: TextSampling = field(default_factory=lambda: TextSampling(length=96, steps=96, block=16))
    thought: TextSampling = field(default_factory=lambda: TextSampling(length=24, steps=24, block=24))
    image: ImageSampling = field(default_factory=ImageSampling)
    ask_thinking: bool = False
    max_length: int = 512
    image_size: int | None = None
    fit: Fit = "crop"
    dtype: Literal["float32", "bfloat16", "float16", "stored"] = "float32"
    image_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    prompt_format: PromptFormat = field(default_factory=PromptFormat)

    def __post_init__(self) -> None:
        if self.image_size is not None:
            check_whole("image_size", self.image_size, 1)
        check_choice("fit", self.fit, get_args(Fit))
        check_choice("dtype", self.dtype, ("float32", "bfloat16", "float16", "stored"))
        check_choice("image_dtype", self.image_dtype, ("float32", "bfloat16", "float16"))
        if not isinstance(self.cot_instruction, str) or not self.cot_instruction.strip():
            raise InputError(f"cot_instruction must be the words used in training, got {self.cot_instruction!r}")
        check_whole("max_length", self.max_length, 1)

    def save(self, folder: str | Path) -> None:
        """Write ``preset.json``."""
        write_text(Path(folder) / "preset.json", json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def load(folder: str | Path) -> Preset:
        """Read the ``preset.json`` of a model folder. Raises InputError where it is missing, damaged or
        unknown in part.
        """
        path = Path(folder) / "preset.json"
        try:
            return Preset.of(json.loads(path.read_text(encoding="utf-8")))
        except InputError as error:
            raise InputError(f"preset {path}: {error}") from error
        except (OSError, ValueError, TypeError) as error:
            known = ", ".join(f.name for f in fields(Preset))
            raise InputError(f"preset {path} cannot be read ({error}); it holds {known}") from error

    @staticmethod
    def of(values: Mapping[str, Any]) -> Preset:
        """From plain values, as in a file. Raises InputError for values without names."""
        if not isinstance(values, Mapping):
            raise InputError(f"it holds {values!r:.40}; it needs an object with a cot_instruction")
        return Preset(**{name: _PARTS[name](**value) if name in _PARTS else value for name, value in values.items()})


_PARTS: dict[str, Any] = {
    "answer": TextSampling,
    "reasoning": TextSampling,
    "thought": TextSampling,
    "image": ImageSampling,
    "prompt_format": PromptFormat,
}
