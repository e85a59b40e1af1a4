"""Pictures of a mixture, for training an image tokenizer: those of every example, by the weights of the sets."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from mmada.data.dataset import Dataset, Example, UnusableRow
from mmada.data.mixture import Mixture, Split
from mmada.data.pictures import read_picture
from mmada.data.sampler import MixtureSampler
from mmada.errors import InputError
from mmada.pipeline.grids import fit

__all__ = ["MixturePictures"]

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
PROBED = 16
"""Examples of a set of which one has to have a picture, for the set to be one with pictures."""


def has_pictures(dataset: Dataset) -> bool:
    """Whether one of the first examples has a picture."""
    for index in islice(range(len(dataset)), PROBED):
        try:
            if dataset[index].images:
                return True
        except UnusableRow:
            continue
    return False


def pictures_of(example: Example, size: int) -> list[Pixels]:
    """The pictures of an example as squares of ``size`` pixels. Raises UnusableRow where it has none that can be read."""
    if not example.images:
        raise UnusableRow("no picture")
    return [np.asarray(fit(read_picture(image), size)) for image in example.images]


@dataclass(frozen=True)
class MixturePictures:
    """The pictures of a split."""

    mixture: Mixture
    sampler: MixtureSampler

    @staticmethod
    def of(mixture: Mixture, split: Split, seed: int) -> MixturePictures:
        """The sets of a mixture whose examples have pictures. Raises InputError where none has."""
        sets = {name: one for name, one in mixture.split(split).items() if has_pictures(one)}
        if not sets:
            raise InputError(f"data has no pictures in the split {split}; an image tokenizer needs sets with pictures")
        return MixturePictures(mixture, MixtureSampler(sets, {name: mixture.weights[name] for name in sets}, seed))

    def of_step(self, step: int, count: int, size: int) -> list[Pixels]:
        """``count`` pictures; those of every step are the same each time. Raises InputError where too many rows are bad."""
        made = self.sampler.take(step * count, count, lambda example: pictures_of(example, size))
        self.mixture.check_rejected()
        return [several[(step + number) % len(several)] for number, several in enumerate(made)]

    def first(self, count: int, size: int) -> list[Pixels]:
        """The first pictures of each set in turn, at most ``count``."""
        found: list[Pixels] = []
        for dataset in self.sampler.datasets.values():
            for index in range(min(len(dataset), count)):
                try:
                    found.append(pictures_of(dataset[index], size)[0])
                except UnusableRow:
                    continue
        return found[:count]
