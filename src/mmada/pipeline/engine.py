"""Engine: runs canvases on a loaded model and converts images, codes and text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
import torch
from PIL import Image

from mmada.canvas import IMAGE, Canvas, Denoiser
from mmada.errors import MAX_SEED, InputError, check_whole, kind_of
from mmada.io.images import ImageSource, load_image
from mmada.pipeline.grids import Fit, Grid, fit
from mmada.pipeline.loading import ModelFolder, read_image_tokenizer
from mmada.pipeline.options import ImageSampling
from mmada.pipeline.results import TextResult, read_texts
from mmada.sampling import FixedShape, Frame, Phase, denoise, row_generators
from mmada.tokenizers.image import ImageTokenizer, to_images, to_pixels
from mmada.tokenizers.prompt import Prompter

__all__ = ["Callback", "Engine", "check_callback", "cropped", "listed", "paired"]

Callback = Callable[[Frame], None]
"""A function that gets each frame of a batch."""
Value = TypeVar("Value")


class Engine:
    """A loaded model at work on one device."""

    def __init__(self, parts: ModelFolder, device: torch.device) -> None:
        self.parts = parts
        self.device = device
        self.denoiser: Denoiser = parts.model
        """The model that the loop calls, or a wrapper of it."""
        self.fixed_shape: FixedShape | None = FixedShape() if device.type == "cuda" else None
        """Steps of fixed shape, for a GPU: the same tokens; on a CPU, less arithmetic is faster."""
        self.observers: list[Callable[[Frame, tuple[int, ...]], None]] = []
        """Called at the end of each batch with its last frame and the tokens written in each row; for measurements."""
        # Sampling draws in float64, which Apple's GPUs lack: there the canvas stays on the CPU.
        self.canvas_device = torch.device("cpu") if device.type == "mps" else device
        self.prompter = Prompter(parts.text, parts.vocabulary, parts.preset.cot_instruction, 0, parts.preset.prompt_format)

    @cached_property
    def image(self) -> ImageTokenizer:
        """The image tokenizer, read with the first image. Raises InputError where the model has none."""
        source = self.parts.image
        if source is None:
            raise InputError(
                "model has no image tokenizer; to work with images, give one, as in image_tokenizer='showlab/magvitv2'"
            )
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
        """Pixels that a code covers, along each axis."""
        return self.image.config.downsample

    @property
    def size(self) -> int:
        """Height and width of the images that the model was trained on, in pixels."""
        return self.parts.preset.image_size or self.image.config.image_size

    @property
    def grid(self) -> int:
        """The same in codes."""
        return self.size // self.cell

    def shape(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """(height, width) in codes of an image of ``size`` (width, height) in pixels; None is the model's own."""
        if size is None:
            return self.grid, self.grid
        width, height = size
        for name, value in (("width", width), ("height", height)):
            if check_whole(name, value, self.cell) % self.cell:
                raise InputError(f"{name} {value} is not a multiple of {self.cell}, the pixels of a code; give one that is")
        rows, columns = height // self.cell, width // self.cell
        if rows * columns > self.parts.max_length:
            raise InputError(
                f"size {width}x{height} takes {rows * columns} codes, over the model's length of {self.parts.max_length}; "
                f"give a smaller one"
            )
        return rows, columns

    def encode(self, images: Sequence[Image.Image]) -> Grid:
        """Codes (B, h, w) of RGB images of one size, a multiple of a cell's."""
        pixels = to_pixels(np.stack([np.asarray(image) for image in images]))
        return cast(Grid, self.image.encode(pixels.to(self.device)).cpu().numpy())

    def decode(self, codes: Grid) -> list[Image.Image]:
        """Images of codes (B, h, w)."""
        return to_images(self.image.decode(torch.from_numpy(codes).to(self.device)))

    def look(self, sources: Sequence[ImageSource], how: Fit) -> tuple[list[Grid], list[str]]:
        """(codes, a note on what was cut away) of images as the model is shown them; the same object is encoded once."""
        unique = list({id(source): source for source in sources}.values())
        whole = [load_image(source) for source in unique]
        codes = list(self.encode([fit(image, self.size, how) for image in whole])) if whole else list[Grid]()
        notes = [cropped(image) if how == "crop" else "" for image in whole]
        at = {id(source): number for number, source in enumerate(unique)}
        return [codes[at[id(source)]] for source in sources], [notes[at[id(source)]] for source in sources]

    def generators(self, seed: int | Sequence[int], rows: int) -> list[torch.Generator]:
        """One generator a row: from ``seed``, ``seed + 1``, ..., or from a list (array, tensor) of one seed a row."""
        holds = isinstance(seed, (np.ndarray, np.generic)) or (isinstance(seed, torch.Tensor) and not seed.is_meta)
        given: object = seed.tolist() if holds else seed  # type: ignore[union-attr]
        if isinstance(given, (list, tuple)):
            seeds = [check_whole("seed", s, 0, MAX_SEED) for s in given]
        else:
            first = check_whole("seed", given, 0, MAX_SEED)
            seeds = [check_whole("seed of the last row", first + row, 0, MAX_SEED) for row in range(rows)]
        if len(seeds) != rows:
            raise InputError(f"seed lists {len(seeds)} numbers for {rows} rows; give one number, or one a row")
        return row_generators(seeds)

    def complete(
        self,
        canvases: Sequence[Canvas],
        phases: Sequence[Phase],
        generators: Sequence[torch.Generator],
        callback: Callback | None,
        unconditional: Sequence[Canvas],
        field: str = "prompt",
    ) -> tuple[Frame, ...]:
        """The frames of the loop on the canvases as one batch, each passed to ``callback``; errors call a prompt ``field``."""
        for canvas in canvases:
            self.check_length(canvas, field)
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
            if callback is not None:
                callback(frame)
        for observe in self.observers:
            observe(frames[-1], tuple(self.tokens_of(frames[-1].canvas)))
        return tuple(frames)

    def tokens_of(self, canvas: Canvas) -> list[int]:
        """Tokens decided in every row, without end tokens."""
        vocabulary = self.parts.vocabulary
        none = torch.tensor([vocabulary.mask, vocabulary.eot, vocabulary.eos], device=canvas.tokens_BL.device)
        found: list[int] = (canvas.editable_BL & ~torch.isin(canvas.tokens_BL, none)).sum(1).tolist()
        return found

    def check_length(self, canvas: Canvas, field: str = "prompt") -> None:
        """Raise InputError for a canvas (one row) that is longer than the model's length."""
        filled, longest = int(canvas.editable_BL.sum()), self.parts.max_length
        if canvas.length > longest:
            raise InputError(
                f"{field} takes {canvas.length - filled} tokens and {filled} are to be filled, "
                f"{canvas.length} in all, over the model's length of {longest}; shorten one of them"
            )

    def text_results(
        self, frames: Sequence[Frame], *, stop: tuple[str, ...] = (), notes: Sequence[str] = (), seconds: float = 0.0
    ) -> list[TextResult]:
        """The text of each row, up to its first end token or stop string."""
        return read_texts(frames, self.parts.text, self.parts.vocabulary, stop=stop, notes=notes, seconds=seconds)

    def codes(self, canvas: Canvas, shape: tuple[int, int]) -> Grid:
        """Codes (B, h, w) of the images of ``shape`` (h, w) on a complete canvas."""
        tokens = canvas.tokens_BL[canvas.modality_BL == IMAGE].reshape(canvas.rows, *shape)
        return cast(Grid, self.parts.vocabulary.codes_of(tokens).cpu().numpy())

    def fill(
        self,
        square: Grid,
        prompt: str,
        sampling: ImageSampling,
        generators: Sequence[torch.Generator],
        callback: Callback | None,
    ) -> Grid:
        """A grid of codes with its unknown ones (-1) filled."""
        if not prompt.strip():
            sampling = replace(sampling, guidance=0.0)  # there is nothing to guide towards
        canvas, blank = (self.prompter.draw(text, codes=square) for text in (prompt, ""))
        frames = self.complete([canvas], [sampling.phase()], generators, callback, [blank])
        return cast(Grid, self.codes(frames[-1].canvas, (square.shape[0], square.shape[1]))[0])


def listed(field: str, value: Value | list[Value]) -> tuple[list[Value], bool]:
    """(the values as a list, whether it was a single one)."""
    if isinstance(value, tuple):
        value = list(value)
    if not isinstance(value, list):
        return [value], True
    if not value:
        raise InputError(f"{field} is an empty list; give at least one")
    return value, False


def paired(images: list[Value], questions: list[str]) -> tuple[list[Value], list[str]]:
    """Two lists of one length, a list of one repeated."""
    rows = max(len(images), len(questions))
    if len(images) not in (1, rows) or len(questions) not in (1, rows):
        raise InputError(f"{len(images)} images and {len(questions)} questions cannot be paired; give as many of each")
    return images * (rows // len(images)), questions * (rows // len(questions))


def check_callback(callback: object) -> None:
    """Raise InputError for a callback that cannot be called."""
    if callback is not None and not callable(callback):
        raise InputError(f"callback is {kind_of(callback)}; give a function that takes a Frame")


def cropped(image: Image.Image) -> str:
    """The note on an image of which the middle square was used; empty where nothing was cut away."""
    width, height = image.size
    side = min(width, height)
    if width == height:
        return ""
    return f"of the {width}x{height} image only the middle {side}x{side} was used; fit='pad' or fit='squash' shows all of it"
