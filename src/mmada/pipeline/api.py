"""`MMaDA`: the model, its tokenizers and its preset behind seven methods.

Every method makes canvases, completes them with the one denoising loop, and reads the result. Given lists,
it completes all their rows as one batch. ``watch`` is called with each `Frame`. ``seed``: row i of a batch
uses ``seed + i``, or give a list with a seed each; a row's output depends on its own seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

import numpy as np
import torch
from PIL import Image

from mmada.errors import MAX_STEPS, InputError, check_text, check_whole
from mmada.io.device import chosen_device
from mmada.io.images import ImageSource, load_image, load_mask
from mmada.model.quantize import Quantisation
from mmada.pipeline.engine import Engine, TextResult, Watch, listed, paired
from mmada.pipeline.grids import Grid, fit, fit_mask, hole_cells, keep_cells, slide
from mmada.pipeline.info import facts
from mmada.pipeline.loading import find_folder, read_folder
from mmada.pipeline.options import Preset, TextSampling, drawing
from mmada.pipeline.view import of_frame
from mmada.sampling import Acceleration, Frame, LowConfidence, Phase, UniformSchedule
from mmada.tokenizers.prompt import Message

if TYPE_CHECKING:
    from mmada.io.live_view import View

__all__ = ["MMaDA"]

MAX_EXTENSION = 64
"""Most columns or rows of codes that `MMaDA.extend` adds on one side."""


class TextOptions(TypedDict, total=False):
    """Options of `MMaDA.generate` and `MMaDA.ask`."""

    thinking: bool | None
    length: int | None
    steps: int | None
    block: int | None
    temperature: float
    guidance: float
    speed: Acceleration | None
    seed: int | Sequence[int]
    watch: Watch | None


class DrawOptions(TypedDict, total=False):
    """Options of `MMaDA.draw`."""

    steps: int | None
    guidance: float | None
    temperature: float | None
    thinking: bool
    size: tuple[int, int] | None
    speed: Acceleration | None
    seed: int | Sequence[int]
    watch: Watch | None


class MMaDA:
    """A model ready for use. Lists, ``watch``, ``seed``: see the module. Wrong input raises `InputError`."""

    def __init__(self, engine: Engine, source: str = "") -> None:
        self.engine = engine
        self.source = source
        self.preset = engine.parts.preset
        self.text_speed = self.image_speed = Acceleration()

    def paced(
        self, *, text: Acceleration | None = None, image: Acceleration | None = None, preset: Preset | None = None
    ) -> MMaDA:
        """The same model with other defaults: how fast texts and pictures are decoded (`Acceleration`), and other plans."""
        other = MMaDA(self.engine, self.source)
        other.preset = preset or self.preset
        other.text_speed, other.image_speed = text or self.text_speed, image or self.image_speed
        return other

    @classmethod
    def load(
        cls,
        source: str | Path = "nano",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        image_tokenizer: str | Path | None = None,
        preset: str | None = None,
        quantisation: Quantisation | None = None,
        adapter: str | Path | None = None,
    ) -> MMaDA:
        """Load ``"nano"``, a folder, or a hub id, on a GPU if there is one.

        ``dtype``: by default the preset's; that of the released checkpoints is the stored one. ``image_tokenizer``:
        a folder or hub id in place of the model's own. ``preset``: the name of a card, such as "mixcot".
        ``quantisation``: "int8", "fp8" or "int4" (`mmada.model.quantize`). ``adapter``: a folder of LoRA adapters.
        """
        folder = find_folder(source)
        place = chosen_device("auto" if device is None else device)
        parts = read_folder(
            folder, place, dtype, image_tokenizer=image_tokenizer, preset=preset, quantisation=quantisation, adapter=adapter
        )
        return cls(Engine(parts, place), str(source))

    @overload
    def generate(self, prompt: str, **options: Unpack[TextOptions]) -> TextResult: ...
    @overload
    def generate(self, prompt: list[str], **options: Unpack[TextOptions]) -> list[TextResult]: ...
    def generate(
        self,
        prompt: str | list[str],
        *,
        thinking: bool | None = False,
        length: int | None = None,
        steps: int | None = None,
        block: int | None = None,
        temperature: float = 0.0,
        guidance: float = 0.0,
        speed: Acceleration | None = None,
        seed: int | Sequence[int] = 0,
        watch: Watch | None = None,
    ) -> TextResult | list[TextResult]:
        """Answer a prompt, block after block, most confident tokens first.

        ``thinking``: reason before answering. ``length``, ``steps``, ``block``: tokens, forwards in all, and
        tokens a block, by default the preset's. ``temperature``: 0 takes the most probable token.
        ``guidance``: weight of classifier-free guidance against the prompt masked out. ``speed``: parallel unmasking, reuse
        between steps or looking ahead, by default none of them: `Acceleration.of("threshold=0.9")`.
        """
        prompts, single = listed(prompt)
        for text in prompts:
            check_text("prompt", text)
        plan = self._text_plan(bool(thinking), length, steps, block)
        results = self._answer(prompts, [None] * len(prompts), bool(thinking), plan, (temperature, guidance), speed, seed, watch)
        return results[0] if single else results

    @overload
    def ask(self, image: ImageSource, question: str, **options: Unpack[TextOptions]) -> TextResult: ...
    @overload
    def ask(self, image: list[ImageSource], question: str | list[str], **options: Unpack[TextOptions]) -> list[TextResult]: ...
    @overload
    def ask(self, image: ImageSource, question: list[str], **options: Unpack[TextOptions]) -> list[TextResult]: ...
    def ask(
        self,
        image: ImageSource | list[ImageSource],
        question: str | list[str],
        *,
        thinking: bool | None = None,
        length: int | None = None,
        steps: int | None = None,
        block: int | None = None,
        temperature: float = 0.0,
        guidance: float = 0.0,
        speed: Acceleration | None = None,
        seed: int | Sequence[int] = 0,
        watch: Watch | None = None,
    ) -> TextResult | list[TextResult]:
        """Answer a question about a picture, of which the model sees the middle square.

        Options as for `generate`; ``thinking`` None is the preset's. One picture with many questions, or many
        with one, are paired up.
        """
        images: list[ImageSource]
        images, one_image = listed(image)
        questions, one_question = listed(question)
        for text in questions:
            check_text("question", text)
        images, questions = paired(images, questions)
        thinks = self.preset.ask_thinking if thinking is None else thinking
        plan = self._text_plan(thinks, length, steps, block)
        codes = self.engine.encode([self._fit(load_image(source)) for source in images])
        results = self._answer(questions, list(codes), thinks, plan, (temperature, guidance), speed, seed, watch)
        return results[0] if one_image and one_question else results

    def infill(
        self,
        text: str,
        *,
        steps: int | None = None,
        temperature: float = 0.0,
        speed: Acceleration | None = None,
        seed: int = 0,
        watch: Watch | None = None,
    ) -> TextResult:
        """Fill the gaps of a text, each ``[MASK]`` one token; ``.text`` is the whole text. By default a token
        a step; ``.tokens`` are those of the whole canvas.
        """
        check_text("text", text)
        engine = self.engine
        canvas = engine.prompter.infill(text)
        count = UniformSchedule(int(canvas.editable_BL.sum()) if steps is None else check_whole("steps", steps, 1, MAX_STEPS))
        phase = Phase(modality="text", schedule=count, remasking=LowConfidence(), token_sampler=drawing(temperature))
        phase = Acceleration.given(speed, self.text_speed).of_phase(phase)
        frames = engine.complete([canvas], [phase], engine.generators(seed, 1), watch, [])
        tokens: list[int] = frames[-1].canvas.tokens_BL[0].tolist()
        return TextResult(engine.parts.text.decode(tokens).strip(), "", tuple(tokens), frames, 0)

    @overload
    def draw(self, prompt: str, **options: Unpack[DrawOptions]) -> Image.Image: ...
    @overload
    def draw(self, prompt: list[str], **options: Unpack[DrawOptions]) -> list[Image.Image]: ...
    def draw(
        self,
        prompt: str | list[str],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        thinking: bool = False,
        size: tuple[int, int] | None = None,
        speed: Acceleration | None = None,
        seed: int | Sequence[int] = 0,
        watch: Watch | None = None,
    ) -> Image.Image | list[Image.Image]:
        """Draw what a prompt says, by parallel decoding with the cosine schedule.

        ``steps``, ``guidance``, ``temperature``: by default the preset's; temperature 0 is fully greedy.
        ``thinking``: first write a thought on the same canvas; it is kept in ``image.info["thinking"]``. ``size``: (width,
        height) in pixels, by default the square that the model was trained on; others are untried ground for it. ``speed``: of
        the picture; the thought keeps the model's own.
        """
        prompts, single = listed(prompt)
        for text in prompts:
            check_text("prompt", text)
        engine, thought = self.engine, self.preset.thought
        plan = self.preset.image.changed(steps=steps, guidance=guidance, temperature=temperature)
        phases = [Acceleration.given(speed, self.image_speed).of_phase(plan.phase())]
        if thinking:
            phases.insert(0, self.text_speed.of_phase(thought.phase((engine.parts.vocabulary.eos,), 0.0, 0.0)))
        length = thought.length if thinking else 0
        shape = engine.shape(size)
        unknown = np.full(shape, -1)
        canvases = [engine.prompter.draw(text, codes=unknown, think_length=length) for text in prompts]
        blanks = [engine.prompter.draw("", codes=unknown)] * len(prompts)
        frames = engine.complete(canvases, phases, engine.generators(seed, len(prompts)), watch, blanks)
        pictures = engine.decode(engine.codes(frames[-1].canvas, shape))
        if thinking:
            for picture, result in zip(pictures, engine.text_results(frames), strict=True):
                picture.info["thinking"] = result.thinking or result.text
        return pictures[0] if single else pictures

    def inpaint(
        self,
        image: ImageSource,
        mask: ImageSource,
        prompt: str = "",
        *,
        steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        speed: Acceleration | None = None,
        seed: int = 0,
        watch: Watch | None = None,
    ) -> Image.Image:
        """Fill a hole in a picture; ``prompt`` says what the whole picture shows. Other options as for
        `draw`.

        ``mask``: as large as the picture, white (True) where the hole is. Of both the middle square is taken,
        at the model's size. A code is unknown if any pixel of its cell is masked; the other cells keep their
        codes while sampling, and their pixels in the result.
        """
        check_text("prompt", prompt, empty=True)
        engine = self.engine
        whole = load_image(image)
        hole = hole_cells(fit_mask(load_mask(mask, whole.size), engine.size), engine.cell)
        if not hole.any():
            raise InputError("mask has its hole outside the middle square of the image; crop the image first")
        original = fit(whole, engine.size)
        square = engine.encode([original])[0]
        square[hole] = -1
        plan = self.preset.image.changed(steps=steps, guidance=guidance, temperature=temperature)
        codes = engine.fill(square, prompt, plan, Acceleration.given(speed, self.image_speed), engine.generators(seed, 1), watch)
        return keep_cells(engine.decode(codes[None])[0], original, hole, engine.cell)

    def extend(
        self,
        image: ImageSource,
        prompt: str = "",
        *,
        left: int = 0,
        right: int = 0,
        up: int = 0,
        down: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        speed: Acceleration | None = None,
        seed: int = 0,
        watch: Watch | None = None,
    ) -> Image.Image:
        """Draw on beyond the edges of a picture, by columns and rows of codes. Other options as for `draw`.

        The middle square at the model's size is extended. The model sees one square of that size at a time,
        at most half of it new across the edge, which slides outwards: left and right first, then up and down.
        The known pixels are kept.
        """
        check_text("prompt", prompt, empty=True)
        engine, edges = self.engine, {"left": left, "right": right, "up": up, "down": down}
        edges = {side: check_whole(f"{side} (in columns or rows of codes)", n, 0, MAX_EXTENSION) for side, n in edges.items()}
        if not any(edges.values()):
            raise InputError("left, right, up and down are all 0; give at least one side to extend")
        plan = self.preset.image.changed(steps=steps, guidance=guidance, temperature=temperature)
        generators, speed = engine.generators(seed, 1), Acceleration.given(speed, self.image_speed)
        original = fit(load_image(image), engine.size)
        grid = engine.encode([original])[0]
        for side, cells in edges.items():
            grid = _padded(grid, side, cells)
            for rows, columns in slide(grid, engine.grid, side) if cells else ():
                grid[rows, columns] = engine.fill(grid[rows, columns], prompt, plan, speed, generators, watch)
        picture = engine.decode(grid[None])[0]
        picture.paste(original, (edges["left"] * engine.cell, edges["up"] * engine.cell))
        return picture

    def view(self, frame: Frame, row: int = 0, *, size: tuple[int, int] | None = None) -> View:
        """One row of a frame for a person: its text in pieces, its picture so far with unknown cells grey.

        ``size``: of the picture that is drawn, as in `draw`.
        """
        engine = self.engine
        return of_frame(frame.row(row), engine.parts.text, engine.parts.vocabulary, lambda: engine.shape(size), engine.decode)

    def info(self) -> dict[str, object]:
        """Facts of the model, for people and for JSON."""
        return facts(self.engine, self.source)

    def _fit(self, image: Image.Image) -> Image.Image:
        """A picture as the model looks at it."""
        return fit(image, self.engine.size, self.preset.fit)

    def _text_plan(self, thinking: bool, length: int | None, steps: int | None, block: int | None) -> TextSampling:
        plan = self.preset.reasoning if thinking else self.preset.answer
        if length is not None:
            check_whole("length", length, 1, self.engine.parts.max_length)
        return plan.changed(length=length, steps=steps, block=block)

    def _answer(
        self,
        prompts: Sequence[str],
        codes: Sequence[Grid | None],
        thinking: bool,
        plan: TextSampling,
        strength: tuple[float, float],
        speed: Acceleration | None,
        seed: int | Sequence[int],
        watch: Watch | None,
    ) -> list[TextResult]:
        """Complete one answer a prompt; ``strength`` is (temperature, guidance)."""
        engine, v = self.engine, self.engine.parts.vocabulary
        canvases = [
            engine.prompter.chat(
                [Message("user", prompt)],
                images=[] if square is None else [square],
                thinking=thinking,
                answer_length=plan.length,
            )
            for prompt, square in zip(prompts, codes, strict=True)
        ]
        blanks = [c.with_tokens(torch.full_like(c.tokens_BL, v.mask)) for c in canvases]
        phase = Acceleration.given(speed, self.text_speed).of_phase(plan.phase((v.eot, v.eos), *strength))
        generators = engine.generators(seed, len(prompts))
        return engine.text_results(engine.complete(canvases, [phase], generators, watch, blanks))


def _padded(grid: Grid, side: str, cells: int) -> Grid:
    """A grid with ``cells`` unknown columns or rows more on one side."""
    pad = (cells, 0) if side in ("left", "up") else (0, cells)
    pads = ((0, 0), pad) if side in ("left", "right") else (pad, (0, 0))
    return np.pad(grid, pads, constant_values=-1)
