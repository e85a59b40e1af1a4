"""`MMaDA`: a model, its tokenizers and its preset behind the methods that users call.

Every method makes canvases, completes them with the one denoising loop, and reads the result. Given lists, it completes all rows
as one batch, and a row's output depends on its own seed alone: row i uses ``seed + i``, or the i-th of a list of seeds.

Options of sampling are fields of `TextSampling` and `ImageSampling`: pass such an object as ``sampling``, or its fields by name,
which take precedence. Options that are not given are the preset's. ``callback`` is called with each `Frame`. Images are paths,
bytes, file objects, ``data:`` URLs, Pillow images, arrays or tensors. Wrong input raises `InputError` before anything is
computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmada.errors import InputError, kind_of, with_article
from mmada.model.quantize import Quantisation
from mmada.pipeline.engine import Engine
from mmada.pipeline.image_methods import ImageMethods
from mmada.pipeline.info import facts, summary
from mmada.pipeline.loading import load_folder
from mmada.pipeline.options import ImageSampling, TextSampling
from mmada.pipeline.preset import Preset
from mmada.pipeline.text_methods import TextMethods
from mmada.pipeline.view import of_frame
from mmada.sampling import Frame

if TYPE_CHECKING:
    from mmada.io.live_view import View

__all__ = ["MMaDA"]


class MMaDA(TextMethods, ImageMethods):
    """A loaded model: `load` it, then generate, ask, chat, infill and score text, and draw, inpaint and extend images."""

    def __repr__(self) -> str:
        return f"MMaDA({summary(self.engine, self.source)})"

    def with_defaults(
        self, *, text: TextSampling | None = None, image: ImageSampling | None = None, preset: Preset | None = None
    ) -> MMaDA:
        """The same model with other defaults: options of all texts and of images, on top of ``preset`` or of its own."""
        for name, value, kind in (("text", text, TextSampling), ("image", image, ImageSampling), ("preset", preset, Preset)):
            if value is not None and not isinstance(value, kind):
                raise InputError(f"{name} is {kind_of(value)}; give {with_article(kind.__name__)}")
        return MMaDA(self.engine, self.source, (preset or self.preset).with_options(text, image))

    @classmethod
    def load(
        cls,
        source: str | Path = "nano",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        image_tokenizer: str | Path | None = None,
        preset: str | None = None,
        quantisation: Quantisation | None = None,
        adapter: str | Path | None = None,
    ) -> MMaDA:
        """Load ``"nano"``, a folder, or a hub id, on a GPU if there is one.

        ``dtype``: "float32", "bfloat16", "float16" or the torch type; by default the preset's. ``image_tokenizer``: a folder or
        hub id in place of the model's own. ``preset``: the name of a known checkpoint whose settings to use, such as "mixcot".
        ``quantisation``: "int8", "fp8" or "int4" (`mmada.model.quantize`). ``adapter``: a folder of LoRA adapters.
        """
        parts, at = load_folder(
            source, device, dtype, image_tokenizer=image_tokenizer, preset=preset, quantisation=quantisation, adapter=adapter
        )
        return cls(Engine(parts, at), str(source))

    def view(self, frame: Frame, row: int = 0, *, size: tuple[int, int] | None = None) -> View:
        """One row of a frame for display: its text in pieces, its image so far with unknown cells grey.

        ``size``: of the image that is drawn, as in `draw`.
        """
        engine = self.engine
        return of_frame(frame.row(row), engine.parts.text, engine.parts.vocabulary, lambda: engine.shape(size), engine.decode)

    def info(self) -> dict[str, object]:
        """Facts of the model, for people and for JSON."""
        return facts(self.engine, self.source)
