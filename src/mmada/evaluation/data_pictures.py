"""Measures of pictures on a data set: retrieval of the picture that a caption belongs to, and the image tokenizer's fidelity.

Shapes: Q queries, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmada.data.dataset import Example
from mmada.data.permutation import Permutation
from mmada.errors import check_whole
from mmada.evaluation.data_sets import SplitSet, has_pictures, identity, is_drawing, pictures_of
from mmada.evaluation.measure import Measured, Split
from mmada.evaluation.picture_scores import clip_features, latent_features, psnr, rank_of_right, ssim
from mmada.io.fingerprint import fingerprint
from mmada.pipeline import MMaDA
from mmada.pipeline.grids import fit

__all__ = ["DataFidelity", "DataRetrieval"]

Random = np.random.Generator
BATCH = 32
TOP = (1, 5)


@dataclass(frozen=True)
class Gallery:
    """The real pictures of a set in a split, among which a drawn one is looked up.

    ``shown``: a fingerprint of the pixels of each. ``captions``: those of each picture. ``queries``: an example and the number of
    its picture. ``groups``: what the row of each picture has in the field of groups.
    """

    pictures: list[Image.Image]
    shown: list[str]
    captions: list[set[str]]
    queries: list[tuple[Example, int]]
    groups: list[str]

    def right(self, examples: Sequence[Example]) -> Tensor:
        """bool (Q, C): the pictures with the caption of each example, and those that look the same as one of them."""
        rows = []
        for example in examples:
            named = [example.text.strip() in captions for captions in self.captions]
            looks = {look for look, right in zip(self.shown, named, strict=True) if right}
            rows.append([look in looks for look in self.shown])
        return torch.tensor(rows)

    def of_group(self, numbers: Sequence[int]) -> Tensor:
        """bool (Q, C): the pictures of the same group as each of some pictures."""
        return torch.tensor([[group == self.groups[number] for group in self.groups] for number in numbers])


@dataclass(frozen=True, kw_only=True)
class DataRetrieval:
    """Retrieval: drawn from its caption, whether a right picture is the nearest of the split's real ones, or among the five.

    Right are the pictures that have the caption. Pictures are compared by what the image tokenizer sees in them
    (`latent_features`), and by the CLIP model ``clip`` if it is given. ``group``: a field of the rows; each drawing is also
    looked up among those pictures alone whose row has the same there. ``most``: pictures of a set that take part at most.
    """

    sets: Sequence[SplitSet]
    group: str = ""
    clip: str = ""
    most: int = 5000
    _galleries: dict[str, Gallery] = field(default_factory=dict, init=False, repr=False)
    _features: dict[tuple[str, str], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_whole("most", self.most, 2)

    def __call__(self, model: MMaDA, rng: Random, count: int, split: Split = "test", /) -> Measured:
        """Scores "SET: retrieval top 1" and "top 5" of each caption, by CLIP "SET: CLIP retrieval ...", within the group "SET:
        retrieval top 1 of its GROUP", and the same by use."""
        result = Measured()
        for one in self.sets:
            gallery = self.gallery(model, one)
            chosen = [gallery.queries[i] for i in rng.permutation(len(gallery.queries))[:count]]
            if not chosen:
                continue
            drawn = draw(model, [example for example, _ in chosen], int(rng.integers(2**31)))
            right_QC = gallery.right([example for example, _ in chosen])
            among = {"": torch.ones_like(right_QC)}
            if self.group:
                among[f" of its {self.group}"] = gallery.of_group([number for _, number in chosen])
            for kind in ("", *(["CLIP "] if self.clip else [])):
                queries_QD, candidates_CD = self.features(model, kind, drawn), self.candidates(model, one.name, kind)
                for where, among_QC in among.items():
                    ranks = rank_of_right(queries_QD, candidates_CD, right_QC, among_QC)
                    for name in (one.name, f"use {one.use}"):
                        for top in TOP:
                            for rank in ranks:
                                result.add(f"{name}: {kind}retrieval top {top}{where}", rank < top)
                    if not kind and not where:
                        for picture, (example, _), rank in zip(drawn, chosen, ranks, strict=True):
                            result.show(picture, example.text, rank == 0)
        return result

    def gallery(self, model: MMaDA, one: SplitSet) -> Gallery:
        """The pictures of a set, read once: those of at most `most` examples, the same for every seed."""
        if one.name in self._galleries:
            return self._galleries[one.name]
        gallery = Gallery([], [], [], [], [])
        numbers: dict[str, int] = {}
        order = Permutation(0, len(one.dataset))
        for index, example in islice(one.examples((order[i] for i in range(len(one.dataset))), is_drawing), self.most):
            key = identity(example)
            if key not in numbers:
                pictures = pictures_of(model, example)
                if pictures is None:
                    continue
                numbers[key] = len(gallery.pictures)
                gallery.pictures.append(pictures[0])
                gallery.shown.append(fingerprint(pictures[0]))
                gallery.captions.append(set())
                gallery.groups.append(one.field(index, self.group) if self.group else "")
            gallery.captions[numbers[key]].add(example.text.strip())
            gallery.queries.append((example, numbers[key]))
        self._galleries[one.name] = gallery
        return gallery

    def candidates(self, model: MMaDA, name: str, kind: str) -> Tensor:
        """Features of a set's real pictures, computed once."""
        if (name, kind) not in self._features:
            self._features[name, kind] = self.features(model, kind, self._galleries[name].pictures)
        return self._features[name, kind]

    def features(self, model: MMaDA, kind: str, pictures: Sequence[Image.Image]) -> Tensor:
        """Features of pictures: the tokenizer's, or CLIP's."""
        return clip_features(self.clip, str(model.engine.device), pictures) if kind else latent_features(model, pictures)


def draw(model: MMaDA, examples: Sequence[Example], seed: int) -> list[Image.Image]:
    """A picture for the caption of each example, as the preset says; after a thought of the model's own where it has one."""
    found: dict[int, Image.Image] = {}
    for thinks in (False, True):
        numbers = [i for i, example in enumerate(examples) if bool(example.thought) == thinks]
        for start in range(0, len(numbers), BATCH):
            some = numbers[start : start + BATCH]
            pictures = model.draw([examples[i].text.strip() for i in some], seed=seed + start, thinking=thinks)
            found.update(zip(some, pictures, strict=True))
    return [fit(found[i], model.engine.size) for i in range(len(examples))]


@dataclass(frozen=True, kw_only=True)
class DataFidelity:
    """The image tokenizer alone: PSNR (dB) and SSIM of pictures that it encodes and decodes."""

    sets: Sequence[SplitSet]

    def __call__(self, model: MMaDA, rng: Random, count: int, split: Split = "test", /) -> Measured:
        """Scores "SET: tokenizer PSNR" and "SET: tokenizer SSIM" of each picture, and the same by use."""
        result = Measured()
        for one in self.sets:
            examples = [example for _, example in one.sample(rng, count, has_pictures)]
            unique = {identity(example): example for example in examples}
            for example in unique.values():
                pictures = pictures_of(model, example) or []
                rebuilt = model.engine.decode(model.engine.encode(pictures)) if pictures else []
                for real, again in zip(pictures, rebuilt, strict=True):
                    for name in (one.name, f"use {one.use}"):
                        result.add(f"{name}: tokenizer PSNR", psnr(real, again))
                        result.add(f"{name}: tokenizer SSIM", ssim(real, again))
                    result.show(again, "")
        return result
