"""The pictures of the nano recipes with what they show: scenes to look at, captioned scenes to draw, digits, flags; and those of
a folder of reasoning examples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from mmada.data.code_cache import encode_pictures
from mmada.data.reasoning import EXAMPLES, Reasoned, read_reasoned
from mmada.errors import InputError
from mmada.io.images import load_image
from mmada.nano.world.captions import Drawable, drawable
from mmada.nano.world.digits import digit_image, digit_indices, digit_label
from mmada.nano.world.flags import FLAGS, flag_picture
from mmada.nano.world.knowledge import COLOR_FACTS, SHAPE_FACTS
from mmada.nano.world.render import CLEAN, LOOSE, render
from mmada.nano.world.scenes import Scene, Thing, sample_scene
from mmada.tokenizers.image import ImageTokenizer

__all__ = ["ImageSetSizes", "ImageSets", "ReasoningSet"]


@dataclass(frozen=True, kw_only=True)
class ImageSetSizes:
    """How many pictures are made; at most ``digits`` real digits, and each ``digit_variants`` times moved and turned.

    Stages with equal sizes and seed share one set, encoded once.
    """

    loose: int = 60_000
    drawn: int = 36_000
    digits: int = 2000
    digit_variants: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("loose", "drawn", "digits", "digit_variants"):
            if getattr(self, name) < 1:
                raise InputError(f"pools.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class ImageSets:
    """Codes are (n, 64) int16, in the order of the things beside them. ``single`` holds the canonical picture of every
    (colour, shape) that knowledge prompts may ask for."""

    loose: tuple[Scene, ...]
    loose_codes: Tensor
    drawn: tuple[Drawable, ...]
    drawn_codes: Tensor
    digits: tuple[int, ...]
    digit_codes: Tensor
    digit_seen_codes: Tensor
    flag_codes: Tensor
    single: dict[tuple[str, str], int]
    single_codes: Tensor

    @staticmethod
    def build(tokenizer: ImageTokenizer, sizes: ImageSetSizes, *, cache: Path) -> ImageSets:
        """Make and encode everything, training split only; the same for the same seed."""

        def generator(kind: int, index: int) -> np.random.Generator:
            return np.random.default_rng((sizes.seed, kind, index))

        loose = tuple(sample_scene(generator(0, i)) for i in range(sizes.loose))
        drawn = tuple(drawable(generator(1, i)) for i in range(sizes.drawn))
        digits = digit_indices("train")[: sizes.digits]
        single = {(c, s): i for i, (c, s) in enumerate(
            sorted({(c, s) for c in COLOR_FACTS.values() for s in SHAPE_FACTS.values()})
        )}  # fmt: skip
        pairs = list(single)
        variants = sizes.digit_variants
        plain = np.random.default_rng(0)  # the canonical style draws nothing from it
        sources = {
            "loose": (len(loose), lambda i: render(loose[i], generator(2, i), LOOSE)),
            "drawn": (len(drawn), lambda i: render(drawn[i].scene, plain, CLEAN)),
            "digits": (len(digits), lambda i: digit_image(digits[i])),
            "digits_seen": (len(digits) * variants, lambda i: digit_image(digits[i // variants], generator(3, i))),
            "flags": (len(FLAGS), lambda i: flag_picture(FLAGS[i])),
            "single": (len(pairs), lambda i: render(Scene((Thing(1, 1, pairs[i][1], pairs[i][0]),)), plain, CLEAN)),
        }
        shown = {"loose": loose, "drawn": drawn}
        codes = {
            name: encode_pictures(tokenizer, picture, count, cache=cache, name=name, facts=shown.get(name, sizes.seed))
            for name, (count, picture) in sources.items()
        }
        labels = tuple(digit_label(i) for i in digits)
        return ImageSets(loose, codes["loose"], drawn, codes["drawn"], labels, codes["digits"], codes["digits_seen"],
                     codes["flags"], single, codes["single"])  # fmt: skip


@dataclass(frozen=True)
class ReasoningSet:
    """Reasoning examples of a folder. ``codes``: those of each example's picture; none for text alone."""

    examples: tuple[Reasoned, ...]
    codes: tuple[list[int] | None, ...]

    @staticmethod
    def read(folder: Path, tokenizer: ImageTokenizer, fit: Callable[[Image.Image], Image.Image], *, cache: Path) -> ReasoningSet:
        """Read the folder and encode its pictures, made by ``fit`` the size that the model looks at. Raises InputError."""
        examples = tuple(read_reasoned(folder))
        shown = [example for example in examples if example.picture is not None]

        def pixels(index: int) -> np.ndarray:
            source = shown[index].picture
            assert source is not None
            return np.asarray(fit(load_image(source, "picture")))

        rows: list[list[int]] = []
        if shown:
            facts = hashlib.sha256((folder / EXAMPLES).read_bytes()).hexdigest()
            rows = encode_pictures(tokenizer, pixels, len(shown), cache=cache, name="reasoning", facts=facts).tolist()
        following = iter(rows)
        return ReasoningSet(examples, tuple(None if example.picture is None else next(following) for example in examples))

    def only(self, wanted: Callable[[Reasoned, list[int] | None], bool]) -> ReasoningSet:
        """Those examples of which ``wanted`` says yes."""
        some = [pair for pair in zip(self.examples, self.codes, strict=True) if wanted(*pair)]
        return ReasoningSet(tuple(example for example, _ in some), tuple(codes for _, codes in some))
