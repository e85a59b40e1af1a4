"""Scores of texts against references: exact match, and CIDEr-D of captions."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["CiderD", "exact_match", "words"]

Ngram = tuple[str, ...]
LONGEST = 4
"""Words of the longest n-gram."""
SIGMA = 6.0
"""Width of the penalty on a difference in length, in words."""


def words(text: str) -> list[str]:
    """Words and numbers of a text in lower case, without punctuation; each character of scripts without spaces is a word."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+(?:['’.,][^\W_]+)*", plain)


def exact_match(answer: str, references: Sequence[str]) -> bool:
    """Whether an answer is one of the references, but for case, spaces and the punctuation at its end."""
    return plainly(answer) in {plainly(one) for one in references}


def plainly(text: str) -> str:
    """A text without what does not count in `exact_match`."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" .!?,;:")


def ngrams(text: str) -> Counter[Ngram]:
    """The n-grams of a text, n = 1..`LONGEST`, counted."""
    tokens = words(text)
    return Counter(tuple(tokens[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(tokens) - n + 1))


@dataclass(frozen=True)
class CiderD:
    """CIDEr-D of an answer against its references (Vedantam et al., CVPR 2015, arXiv 1411.5726), 0..10.

    n-grams are weighted by how rare they are among the references of all examples, ``corpus``, one list of references an example;
    so a score belongs to its split. Counts are clipped to the reference's, and a Gaussian penalises other lengths. An answer
    equal to its only reference has 10 if it has `LONGEST` words or more, 2.5 less for each word that it lacks. No stemming, as in
    the usual evaluation code.
    """

    corpus: Sequence[Sequence[str]]
    _frequency: Mapping[Ngram, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        frequency = Counter(gram for references in self.corpus for gram in {g for one in references for g in ngrams(one)})
        object.__setattr__(self, "_frequency", frequency)

    def score(self, answer: str, references: Sequence[str]) -> float:
        """The score of an answer: the mean over n and over the references."""
        given, length = self._vectors(answer)
        scores = []
        for one in references:
            wanted, other = self._vectors(one)
            penalty = math.exp(-((length - other) ** 2) / (2 * SIGMA**2))
            scores.append(penalty * sum(similarity(a, b) for a, b in zip(given, wanted, strict=True)) / LONGEST)
        return 10 * sum(scores) / len(scores)

    def _vectors(self, text: str) -> tuple[list[dict[Ngram, float]], int]:
        """TF-IDF vectors by n, and the length as the evaluation code counts it: in pairs of words."""
        vectors: list[dict[Ngram, float]] = [{} for _ in range(LONGEST)]
        examples = math.log(max(1, len(self.corpus)))
        length = 0
        for gram, count in ngrams(text).items():
            vectors[len(gram) - 1][gram] = count * (examples - math.log(max(1, self._frequency.get(gram, 0))))
            length += count if len(gram) == 2 else 0
        return vectors, length


def similarity(given: Mapping[Ngram, float], wanted: Mapping[Ngram, float]) -> float:
    """Cosine of two vectors, the first clipped to the second."""
    norm = math.sqrt(sum(v * v for v in given.values())) * math.sqrt(sum(v * v for v in wanted.values()))
    dot = sum(min(value, wanted.get(gram, 0.0)) * wanted.get(gram, 0.0) for gram, value in given.items())
    return dot / norm if norm else 0.0
