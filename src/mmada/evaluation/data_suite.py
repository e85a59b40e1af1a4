"""Measures of a model on anybody's data: the suite that `mmada eval data FILE.yaml` runs on a split of a mixture.

Each set has the measures that its examples allow. Scores are named "SET: SCORE"; those of all sets of a use together are
"use USE: SCORE".

    nats a token              bound on -ln p(what is learned | the rest), text or picture, and the unigram's
    exact match, CIDEr-D      the model's answers against those of the split
    retrieval top 1, top 5    drawn from its caption, whether the nearest of the split's real pictures is a right one
    tokenizer PSNR, SSIM      of pictures that the image tokenizer encodes and decodes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from mmada.errors import InputError
from mmada.evaluation.data_answers import DataAnswers
from mmada.evaluation.data_likelihood import DataLikelihood
from mmada.evaluation.data_pictures import DataFidelity, DataRetrieval
from mmada.evaluation.data_sets import Keep, MixtureLike, SplitSet, anything, has_pictures, is_answer, is_drawing, sets_of
from mmada.evaluation.measure import Measure, Split, Suite

__all__ = ["EXAMPLES", "data_suite"]

EXAMPLES = 1000
"""Examples of a set, measure and seed at most, where no limit is given."""


def data_suite(
    mixture: MixtureLike, split: Split, *, limit: int | None = None, group: str = "", clip: str = "", samples: int = 8
) -> Suite:
    """The measures of a split. Raises InputError for a split without examples.

    ``limit``: examples of a set, measure and seed at most. ``group``: a field of the rows within which pictures are also
    retrieved. ``clip``: folder or hub id of a CLIP model that compares pictures. ``samples``: masked copies of each example, for
    the bound.
    """
    sets = sets_of(mixture, split)
    if not sets:
        filled = [name for name in ("train", "validation", "test") if mixture.split(name)]
        raise InputError(f"split {split!r} has no examples; choose from {', '.join(filled) or 'none: the data has no examples'}")
    trained = sets_of(mixture, "train")
    measures: dict[str, tuple[Measure, int]] = {}
    for use in dict.fromkeys(one.use for one in sets.values()):
        some, known = ([one for one in of.values() if one.use == use] for of in (sets, trained))
        kinds: dict[str, tuple[Keep, Callable[[list[SplitSet]], Measure]]] = {
            "likelihood": (anything, partial(likelihood, known, samples)),
            "answers": (is_answer, lambda found: DataAnswers(sets=found)),
            "retrieval": (is_drawing, lambda found: DataRetrieval(sets=found, group=group, clip=clip)),
            "tokenizer": (has_pictures, lambda found: DataFidelity(sets=found)),
        }
        for name, (keep, made) in kinds.items():
            found = [one for one in some if one.has(keep)]
            if group and name == "retrieval":
                for one in found:
                    one.field(0, group)  # raises now, before any work
            if found:
                measures[f"{name} of {use}"] = (made(found), limit or EXAMPLES)
    return Suite(measures=measures)


def likelihood(known: Sequence[SplitSet], samples: int, found: Sequence[SplitSet]) -> Measure:
    """The likelihood bound of sets."""
    return DataLikelihood(sets=found, known=known, samples=samples)
