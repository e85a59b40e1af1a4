"""The workshop of the pipeline: pictures to codes and back, canvases to frames, frames to text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
import torch
from PIL import Image

from mmada.canvas import IMAGE, TEXT, Canvas, Denoiser
from mmada.errors import MAX_SEED, InputError, check_whole
from mmada.pipeline.grids import Grid
from mmada.pipeline.loading import ModelFolder, read_image_tokenizer
from mmada.pipeline.options import ImageSampling
from mmada.sampling import Acceleration, FixedShape, Frame, Phase, denoise, row_generators
from mmada.tokenizers.image import ImageTokenizer, to_images, to_pixels
from mmada.tokenizers.prompt import Prompter, split_thinking

__all__ = ["Engine", "TextResult", "Watch", "listed", "paired"]

Watch = Callable[[Frame], None]
Value = TypeVar("Value")


@dataclass(frozen=True)
class TextResult:
    """A completed text.

    ``text``: the answer alone. ``thinking``: the reasoning before it, or "". ``tokens``: ids of what was
    written, up to its end token.
    """

    text: str
    thinking: str
    tokens: tuple[int, ...]
    batch: tuple[Frame, ...] = field(repr=False)
    index: int = field(repr=False)

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The frames of this row, from the start, still masked, to the end."""
        return tuple(frame.row(self.index) for frame in self.batch)

    @property
    def nfe(self) -> int:
        """ModelCalls of the model that this row took part in."""
        return self.batch[-1].nfe[self.index]


class Engine:
    """A model folder at work on one device."""

    def __init__(self, parts: ModelFolder, device: torch.device) -> None:
        self.parts = parts
        self.device = device
        self.denoiser: Denoiser = parts.model
        """What the loop asks: the model, or something that watches it."""
        self.fixed_shape: FixedShape | None = FixedShape() if device.type == "cuda" else None
        """Places that stay fixed for a block: the same tokens, for a GPU; where the host computes, less arithmetic is faster."""
        self.passes: list[int] = []
        """ModelCalls of the model for every row completed so far."""
        self.written: list[int] = []
        """Tokens decided in each of them, end tokens and the padding behind them not counted."""
        # Sampling draws in float64, which Apple's GPUs lack: there the canvas stays beside them.
        self.canvas_device = torch.device("cpu") if device.type == "mps" else device
        self.prompter = Prompter(parts.text, parts.vocabulary, parts.preset.cot_instruction, 0, parts.preset.prompt_format)

    @cached_property
    def image(self) -> ImageTokenizer:
        """The image tokenizer, read when the first picture is at hand. Raises InputError where the model has none."""
        source = self.parts.image
        if source is None:
            raise InputError("model has no image tokenizer; name one, such as showlab/magvitv2, for questions about pictures")
        tokenizer = source if isinstance(source, ImageTokenizer) else read_image_tokenizer(source)
        if tokenizer.config.codebook_size != self.parts.vocabulary.codebook_size:
            raise InputError(
                f"image tokenizer has {tokenizer.config.codebook_size} codes, "
                f"but the model has {self.parts.vocabulary.codebook_size}; give the one it was trained with"
            )
        dtype = getattr(torch, self.parts.preset.image_dtype)
        return tokenizer.to(self.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    @property
    def cell(self) -> int:
        """Pixels of a code, along each axis."""
        return self.image.config.downsample

    @property
    def size(self) -> int:
        """Height and width of the pictures that the model was trained on, in pixels."""
        return self.parts.preset.image_size or self.image.config.image_size

    @property
    def grid(self) -> int:
        """The same in codes."""
        return self.size // self.cell

    def shape(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """(height, width) in codes of a picture of ``size`` (width, height) in pixels; None is the model's own."""
        if size is None:
            return self.grid, self.grid
        try:
            width, height = size
        except (TypeError, ValueError) as error:
            raise InputError(f"size {size!r} is no pair; give (width, height) in pixels") from error
        for name, value in (("width", width), ("height", height)):
            if check_whole(name, value, self.cell) % self.cell:
                raise InputError(f"{name} {value} is no multiple of {self.cell}, the pixels of a code; give one that is")
        rows, columns = height // self.cell, width // self.cell
        if rows * columns > self.parts.max_length:
            raise InputError(
                f"size {width}x{height} takes {rows * columns} codes, over the model's length of {self.parts.max_length}; "
                f"give a smaller one"
            )
        return rows, columns

    def encode(self, pictures: Sequence[Image.Image]) -> Grid:
        """Codes (B, h, w) of RGB pictures of one size, a multiple of a cell's."""
        pixels = to_pixels(np.stack([np.asarray(picture) for picture in pictures]))
        return cast(Grid, self.image.encode(pixels.to(self.device)).cpu().numpy())

    def decode(self, codes: Grid) -> list[Image.Image]:
        """Pictures of codes (B, h, w)."""
        return to_images(self.image.decode(torch.from_numpy(codes).to(self.device)))

    def generators(self, seed: int | Sequence[int], rows: int) -> list[torch.Generator]:
        """One generator a row: from ``seed``, ``seed + 1``, ..., or from a seed each."""
        if isinstance(seed, (list, tuple)):
            seeds = [check_whole("seed", s, 0, MAX_SEED) for s in seed]
        else:
            first = check_whole("seed", seed, 0, MAX_SEED)
            seeds = [first + row for row in range(rows)]
        if len(seeds) != rows:
            raise InputError(f"seed lists {len(seeds)} numbers for {rows} rows; give one number, or one a row")
        return row_generators(seeds)

    def complete(
        self,
        canvases: Sequence[Canvas],
        phases: Sequence[Phase],
        generators: Sequence[torch.Generator],
        watch: Watch | None,
        unconditional: Sequence[Canvas],
    ) -> tuple[Frame, ...]:
        """Run the loop on the canvases as one batch, showing and keeping its frames."""
        for canvas in canvases:
            self.check_length(canvas)
        guided = any(phase.guidance.scale > 0 for phase in phases)
        frames = []
        for frame in denoise(
            self.denoiser,
            Canvas.stack(canvases).to(self.canvas_device),
            phases,
            vocabulary=self.parts.vocabulary,
            generators=generators,
            unconditional=Canvas.stack(unconditional).to(self.canvas_device) if guided else None,
            fixed_shape=self.fixed_shape,
        ):
            frames.append(frame)
            if watch is not None:
                watch(frame)
        self.passes += frames[-1].nfe
        self.written += self.tokens_of(frames[-1].canvas)
        return tuple(frames)

    def tokens_of(self, canvas: Canvas) -> list[int]:
        """Tokens decided in every row, without end tokens."""
        vocabulary = self.parts.vocabulary
        none = torch.tensor([vocabulary.mask, vocabulary.eot, vocabulary.eos], device=canvas.tokens_BL.device)
        found: list[int] = (canvas.editable_BL & ~torch.isin(canvas.tokens_BL, none)).sum(1).tolist()
        return found

    def check_length(self, canvas: Canvas) -> None:
        """Raise InputError for a canvas (one row) that is longer than the model's length."""
        filled, longest = int(canvas.editable_BL.sum()), self.parts.max_length
        if canvas.length > longest:
            raise InputError(
                f"prompt takes {canvas.length - filled} tokens and {filled} are to be filled, "
                f"{canvas.length} in all, over the model's length of {longest}; shorten either"
            )

    def text_results(self, frames: tuple[Frame, ...]) -> list[TextResult]:
        """What was written into each row: its editable text places up to the first end token."""
        v, last = self.parts.vocabulary, frames[-1].canvas
        results = []
        for index in range(last.rows):
            written = last.editable_BL[index] & (last.modality_BL[index] == TEXT)
            tokens: list[int] = last.tokens_BL[index][written].tolist()
            end = next((i for i, token in enumerate(tokens) if token in (v.eot, v.eos)), len(tokens))
            text, thinking = split_thinking(self.parts.text.decode(tokens[:end]))
            results.append(TextResult(text, thinking, tuple(tokens[:end]), frames, index))
        return results

    def codes(self, canvas: Canvas, shape: tuple[int, int]) -> Grid:
        """Codes (B, h, w) of the pictures of ``shape`` (h, w) on a complete canvas."""
        tokens = canvas.tokens_BL[canvas.modality_BL == IMAGE].reshape(canvas.rows, *shape)
        return cast(Grid, self.parts.vocabulary.codes_of(tokens).cpu().numpy())

    def fill(
        self,
        square: Grid,
        prompt: str,
        plan: ImageSampling,
        speed: Acceleration,
        generators: Sequence[torch.Generator],
        watch: Watch | None,
    ) -> Grid:
        """A grid of codes with its unknown ones (-1) filled."""
        if not prompt.strip():
            plan = plan.changed(guidance=0.0)  # there is nothing to guide towards
        canvas, blank = (self.prompter.draw(text, codes=square) for text in (prompt, ""))
        frames = self.complete([canvas], [speed.of_phase(plan.phase())], generators, watch, [blank])
        return cast(Grid, self.codes(frames[-1].canvas, (square.shape[0], square.shape[1]))[0])


def listed(value: Value | list[Value]) -> tuple[list[Value], bool]:
    """(the values as a list, whether it was a single one)."""
    if not isinstance(value, list):
        return [value], True
    if not value:
        raise InputError("the list of inputs is empty; give at least one")
    return value, False


def paired(images: list[Value], questions: list[str]) -> tuple[list[Value], list[str]]:
    """Two lists of one length, a list of one repeated."""
    rows = max(len(images), len(questions))
    if len(images) not in (1, rows) or len(questions) not in (1, rows):
        raise InputError(f"{len(images)} images and {len(questions)} questions cannot be paired; give as many of each")
    return images * (rows // len(images)), questions * (rows // len(questions))
