"""Pictures of the nano data sets as codes, with what they show: augmented scenes to ask about, canonical scenes with captions to
draw, digits and flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from mmada.data.code_cache import encode_pictures
from mmada.errors import check_whole
from mmada.nano.world.captions import Drawable, drawable
from mmada.nano.world.digits import digit_image, digit_indices, digit_label
from mmada.nano.world.flags import FLAGS, flag_picture
from mmada.nano.world.knowledge import COLOR_FACTS, SHAPE_FACTS
from mmada.nano.world.render import AUGMENTED, CANONICAL, render
from mmada.nano.world.scenes import Scene, Thing, sample_scene
from mmada.tokenizers.image import ImageTokenizer

__all__ = ["ImageSetSizes", "ImageSets"]


@dataclass(frozen=True, kw_only=True)
class ImageSetSizes:
    """Numbers of pictures: augmented scenes, canonical scenes, at most so many ``digits``, each also ``digit_variants`` times
    moved and rotated. Stages with equal sizes and seed share one set, encoded once."""

    augmented: int = 60_000
    canonical: int = 36_000
    digits: int = 2000
    digit_variants: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("augmented", "canonical", "digits", "digit_variants"):
            check_whole(f"image_sets.{name}", getattr(self, name), 1)


@dataclass(frozen=True)
class ImageSets:
    """Codes are (n, h * w) int32, in the order of what they show. ``augmented``: scenes with varied colours, positions and
    backgrounds, to look at; ``canonical``: scenes in the one style that the model draws, with captions. ``single``: row of the
    canonical picture of every (colour, shape) that knowledge prompts may ask for."""

    augmented: tuple[Scene, ...]
    augmented_codes: Tensor
    canonical: tuple[Drawable, ...]
    canonical_codes: Tensor
    digits: tuple[int, ...]
    digit_codes: Tensor
    digit_variant_codes: Tensor
    flag_codes: Tensor
    single: dict[tuple[str, str], int]
    single_codes: Tensor

    @staticmethod
    def build(tokenizer: ImageTokenizer, sizes: ImageSetSizes, *, cache: Path) -> ImageSets:
        """Make and encode everything, training split only; the same for the same seed."""

        def generator(kind: int, index: int) -> np.random.Generator:
            return np.random.default_rng((sizes.seed, kind, index))

        augmented = tuple(sample_scene(generator(0, i)) for i in range(sizes.augmented))
        canonical = tuple(drawable(generator(1, i)) for i in range(sizes.canonical))
        digits = digit_indices("train")[: sizes.digits]
        single = {(c, s): i for i, (c, s) in enumerate(
            sorted({(c, s) for c in COLOR_FACTS.values() for s in SHAPE_FACTS.values()})
        )}  # fmt: skip
        pairs = list(single)
        variants = sizes.digit_variants
        plain = np.random.default_rng(0)  # the canonical style uses no random numbers
        sources = {
            "augmented": (len(augmented), lambda i: render(augmented[i], generator(2, i), AUGMENTED)),
            "canonical": (len(canonical), lambda i: render(canonical[i].scene, plain, CANONICAL)),
            "digits": (len(digits), lambda i: digit_image(digits[i])),
            "digit_variants": (len(digits) * variants, lambda i: digit_image(digits[i // variants], generator(3, i))),
            "flags": (len(FLAGS), lambda i: flag_picture(FLAGS[i])),
            "single": (len(pairs), lambda i: render(Scene((Thing(1, 1, pairs[i][1], pairs[i][0]),)), plain, CANONICAL)),
        }
        shown = {"augmented": repr(augmented), "canonical": repr(canonical)}
        codes = {
            name: encode_pictures(tokenizer, picture, count, cache=cache, name=name, facts=shown.get(name, sizes.seed))
            for name, (count, picture) in sources.items()
        }
        labels = tuple(digit_label(i) for i in digits)
        return ImageSets(augmented, codes["augmented"], canonical, codes["canonical"], labels, codes["digits"],
                         codes["digit_variants"],
                     codes["flags"], single, codes["single"])  # fmt: skip
