"""Methods that make images: draw, inpaint, extend."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
from PIL import Image

from mmada.errors import InputError, check_text, check_whole
from mmada.io.images import ImageSource, load_image, load_mask
from mmada.pipeline.engine import Callback, check_callback, cropped, listed
from mmada.pipeline.grids import fit, fit_mask, hole_cells, keep_cells, padded, slide
from mmada.pipeline.methods import OTHER_OPTIONS, Methods, check_thinking
from mmada.pipeline.options import ImageSampling, chosen, takes_options

__all__ = ["ImageMethods"]

MAX_EXTENSION = 64
"""Largest number of columns or rows of codes that `extend` adds on one side."""


class ImageMethods(Methods):
    """The image methods of `MMaDA`; how options, lists, seeds and images are given: see `mmada.pipeline.api`."""

    @overload
    def draw(self, prompt: str, **options: Any) -> Image.Image: ...
    @overload
    def draw(self, prompt: list[str], **options: Any) -> list[Image.Image]: ...
    @takes_options(ImageSampling)
    def draw(
        self,
        prompt: str | list[str],
        *,
        sampling: ImageSampling | None = None,
        thinking: bool | None = False,
        seed: int | Sequence[int] = 0,
        callback: Callback | None = None,
        **options: Any,
    ) -> Image.Image | list[Image.Image]:
        """Draw what a prompt says, by parallel decoding of image codes.

        ``thinking``: first write a thought on the same canvas, decoded as the preset's ``thought`` says; it is in
        ``image.info["thinking"]``. ``image.info`` also has "nfe", the forward passes, and "seconds".
        """
        prompts, single = listed("prompt", prompt)
        for text in prompts:
            check_text("prompt", text)
        thinks, engine, thought = check_thinking(thinking, False), self.engine, self.preset.thought
        plan = self._image_plan(sampling, options, callback)
        generators = engine.generators(seed, len(prompts))
        phases = [plan.phase()]
        if thinks:
            phases.insert(0, replace(thought, temperature=0.0, guidance=0.0).phase((engine.parts.vocabulary.eos,)))
        length = thought.numbers[0] if thinks else 0
        shape = engine.shape(plan.size)
        unknown = np.full(shape, -1)
        canvases = [engine.prompter.draw(text, codes=unknown, think_length=length) for text in prompts]
        blanks = [engine.prompter.draw("", codes=unknown)] * len(prompts)
        start = time.perf_counter()
        frames = engine.complete(canvases, phases, generators, callback, blanks)
        images = engine.decode(engine.codes(frames[-1].canvas, shape))
        seconds = time.perf_counter() - start
        for image, nfe in zip(images, frames[-1].nfe, strict=True):
            image.info |= {"nfe": nfe, "seconds": seconds}
        if thinks:
            for image, result in zip(images, engine.text_results(frames), strict=True):
                image.info["thinking"] = result.thinking or result.text
        return images[0] if single else images

    @takes_options(ImageSampling, "size")
    def inpaint(
        self,
        image: ImageSource,
        mask: ImageSource,
        prompt: str = "",
        *,
        sampling: ImageSampling | None = None,
        seed: int = 0,
        callback: Callback | None = None,
        **options: Any,
    ) -> Image.Image:
        """Fill a hole in an image; ``prompt`` says what the whole image shows.

        ``mask``: as large as the image, white (True) where the hole is. Of both the middle square is used, at the model's size;
        where something was cut away, ``image.info["note"]`` says so. A code is unknown if any pixel of its cell is masked; the
        other cells keep their codes while sampling, and their pixels in the result.
        """
        check_text("prompt", prompt, empty=True)
        engine, plan = self.engine, self._image_plan(sampling, options, callback, sized=False)
        generators = engine.generators(seed, 1)
        whole = load_image(image)
        hole = hole_cells(fit_mask(load_mask(mask, whole.size, image=whole), engine.size), engine.cell)
        if not hole.any():
            raise InputError("mask has its hole outside the middle square of the image; crop the image first")
        original = fit(whole, engine.size)
        square = engine.encode([original])[0]
        square[hole] = -1
        codes = engine.fill(square, prompt, plan, generators, callback)
        return noted(keep_cells(engine.decode(codes[None])[0], original, hole, engine.cell), whole)

    @takes_options(ImageSampling, "size")
    def extend(
        self,
        image: ImageSource,
        prompt: str = "",
        *,
        left: int = 0,
        right: int = 0,
        up: int = 0,
        down: int = 0,
        sampling: ImageSampling | None = None,
        seed: int = 0,
        callback: Callback | None = None,
        **options: Any,
    ) -> Image.Image:
        """Extend an image beyond its edges (extrapolation), by columns and rows of codes.

        The middle square at the model's size is extended; a note says what was cut away, as in `inpaint`. The model sees one
        square of that size at a time, at most half of it new across the edge, which slides outwards: left and right first, then
        up and down. The known pixels are kept.
        """
        check_text("prompt", prompt, empty=True)
        engine, edges = self.engine, {"left": left, "right": right, "up": up, "down": down}
        edges = {side: check_whole(f"{side} (in columns or rows of codes)", n, 0, MAX_EXTENSION) for side, n in edges.items()}
        if not any(edges.values()):
            raise InputError("left, right, up and down are all 0; give at least one side to extend")
        plan = self._image_plan(sampling, options, callback, sized=False)
        generators = engine.generators(seed, 1)
        whole = load_image(image)
        original = fit(whole, engine.size)
        grid = engine.encode([original])[0]
        for side, cells in edges.items():
            grid = padded(grid, side, cells)
            for rows, columns in slide(grid, engine.grid, side) if cells else ():
                grid[rows, columns] = engine.fill(grid[rows, columns], prompt, plan, generators, callback)
        made = engine.decode(grid[None])[0]
        made.paste(original, (edges["left"] * engine.cell, edges["up"] * engine.cell))
        return noted(made, whole)

    def _image_plan(
        self, sampling: ImageSampling | None, options: dict[str, Any], callback: Callback | None, *, sized: bool = True
    ) -> ImageSampling:
        """The options of a call over those of the preset."""
        given = chosen(ImageSampling, sampling, options, OTHER_OPTIONS)
        if given.size is not None and not sized:
            raise InputError(f"size {given.size} is of images that are drawn; this one has its own, so leave it out")
        check_callback(callback)
        return given.over(self.preset.image)


def noted(image: Image.Image, whole: Image.Image) -> Image.Image:
    """Add the note on what was cut away from the source image, and return the image."""
    if note := cropped(whole):
        image.info["note"] = note.partition(";")[0]
    return image
