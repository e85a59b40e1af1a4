"""Reasoning data: keep what is right and well formed, say what was dropped and why, and write it whole.

FOLDER/examples.jsonl, pictures/    what was kept (`mmada.data.reasoning`)
FOLDER/report.json                  settings, and for each source how many were read, kept and dropped for which reason
FOLDER/dropped.jsonl                a few of the dropped of each source and reason, to look at
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmada import __version__
from mmada.data.public_sets import prompts_in
from mmada.data.reasoning import Reasoned, Writer, fault, normalised
from mmada.errors import InputError, check_folder, check_is_folder, check_whole
from mmada.io.atomic import atomic_folder
from mmada.pipeline import MMaDA
from mmada.pipeline.loading import find_folder
from mmada.recipes.collect_sources import Candidate, SelfGenerated, Source, source_of, unreadable
from mmada.rl.rollout import RolloutSampling
from mmada.tokenizers.text import TextTokenizer

__all__ = ["CandidateFilter", "Report", "Selection", "collect_reasoning"]

SHOWN = 5
"""Dropped examples that are kept to look at, of each source and reason."""


@dataclass
class Report:
    """Counts of the candidates of each source. ``unchecked``: stored without a gold answer to check against."""

    read: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    unchecked: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)

    def table(self) -> list[dict[str, object]]:
        """One row a source: read, kept, unchecked, and each reason with its number."""
        rows: list[dict[str, object]] = []
        for source in self.read:
            row: dict[str, object] = {"source": source, "read": self.read[source], "kept": self.kept[source]}
            reasons = {reason: n for (name, reason), n in self.dropped.most_common() if name == source}
            rows.append({**row, "unchecked": self.unchecked[source], "dropped": reasons})
        return rows


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which correct examples are stored.

    ``unchecked``: also examples without a gold answer. ``plain``: also answers without reasoning. ``per_prompt``: maximum
    answers to one prompt. ``max_tokens``: maximum tokens of prompt and answer. ``forbidden``: prompts that must not occur (as
    `normalised`).
    """

    unchecked: bool = False
    plain: bool = False
    per_prompt: int | None = None
    max_tokens: int | None = None
    forbidden: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in ("per_prompt", "max_tokens"):
            if (value := getattr(self, name)) is not None:
                check_whole(name, value, 1)


class CandidateFilter:
    """Decides on candidates one after another: each exact duplicate of one before is dropped. ``tokens``: length of a text."""

    def __init__(self, choice: Selection, tokens: Callable[[str], int] | None = None) -> None:
        self.choice = choice
        self.tokens = tokens
        self.report = Report()
        self.known: set[str] = set()
        self.answered: Counter[str] = Counter()

    def keeps(self, candidate: Candidate) -> str:
        """Count the candidate; the reason why it is dropped, empty if it is kept. The dearest question comes last."""
        example = candidate.example
        reason = f"unusable row: {candidate.parse_error}" if candidate.parse_error else ""
        reason = reason or fault(example, plain=self.choice.plain) or candidate.reject_reason or self.unwanted(example)
        unchecked = False
        if not reason:
            reason = candidate.judge(example)
            unchecked = reason == "no gold answer" and self.choice.unchecked
            reason = "" if unchecked else reason
        reason = reason or unreadable(example)
        self.report.read[example.source] += 1
        if reason:
            self.report.dropped[example.source, reason] += 1
            return reason
        self.known.add(example.key)
        self.answered[example.asked] += 1
        self.report.kept[example.source] += 1
        self.report.unchecked[example.source] += unchecked
        return ""

    def unwanted(self, example: Reasoned) -> str:
        """Why an example is not wanted, whether right or not."""
        choice = self.choice
        if normalised(example.prompt) in choice.forbidden:
            return "forbidden prompt"
        if example.key in self.known:
            return "duplicate"
        if choice.per_prompt is not None and self.answered[example.asked] >= choice.per_prompt:
            return "enough of this prompt"
        if choice.max_tokens is None or self.tokens is None:
            return ""
        return "too long" if self.tokens(f"{example.prompt}\n{example.written}") > choice.max_tokens else ""


def collect_reasoning(
    sources: Sequence[str],
    out: Path,
    *,
    load: Callable[[], MMaDA],
    tokenizer: str | Path | None = None,
    images: Sequence[Path] = (),
    decontaminate: Sequence[Path] = (),
    choice: Selection | None = None,
    samples: int = 4,
    sampling: RolloutSampling | None = None,
    seed: int = 0,
    advance: Callable[[str], None] = lambda source: None,
) -> Report:
    """Read ``sources`` (see `mmada.recipes.collect_sources`), sieve them and write the folder ``out``.

    ``load``: the model whose own answers are sampled, called only where a source asks for them; ``samples`` of each prompt by
    ``sampling``. ``tokenizer``: model whose tokens ``choice.max_tokens`` counts. ``advance`` is told of each candidate's
    source. The folder appears whole or not at all. Raises InputError for a source, file or setting that is wrong, and where
    nothing is kept.
    """
    check_free(out)
    for folder in images:
        check_is_folder("images", folder)
    chosen = choice or Selection()
    forbidden = forbidden_prompts(decontaminate)
    chosen = replace(chosen, forbidden=chosen.forbidden | forbidden)
    tokens = None
    if chosen.max_tokens is not None:
        if tokenizer is None:
            raise InputError(f"max_tokens {chosen.max_tokens} needs a tokenizer to count with; name a model")
        tokens = TextTokenizer.load(find_folder(tokenizer)).encode
    sieve = CandidateFilter(chosen, None if tokens is None else lambda text: len(tokens(text)))
    check_whole("samples", samples, 1)

    def own(prompts: Source, count: int) -> SelfGenerated:
        options = sampling or RolloutSampling()
        return SelfGenerated(model=load, prompts=prompts, count=count, samples=samples, sampling=options, seed=seed)

    settings = {"sources": list(sources), "seed": seed, "samples": samples, "unchecked": chosen.unchecked,
                "plain": chosen.plain, "version": __version__, "per_prompt": chosen.per_prompt, "max_tokens": chosen.max_tokens,
                "forbidden": len(chosen.forbidden)}  # fmt: skip
    if out.name in ("", ".."):
        raise InputError(f"out '{out}' names no new folder; give one, such as runs/reason")
    try:
        opened = [source_of(text, images=tuple(images), seed=seed, own=own) for text in sources]
        with atomic_folder(out) as part:
            write(part, zip(sources, opened, strict=True), sieve, settings, advance)
            if not sieve.report.kept:
                read = sum(sieve.report.read.values())
                raise InputError(f"sources hold nothing to keep among {read} examples ({summed(sieve.report)}); give others")
    except OSError as error:
        raise InputError(f"out '{out}' cannot be written: {error.strerror or error}") from error
    return sieve.report


def forbidden_prompts(paths: Sequence[Path]) -> frozenset[str]:
    """The normalised prompts of test sets. Raises InputError for a file that cannot be read."""
    try:
        return frozenset(normalised(prompt) for path in paths for prompt in prompts_in(path)) - {""}
    except InputError as error:
        raise InputError(f"decontaminate: {error}") from error


def check_free(out: Path) -> None:
    """Raise InputError where the folder already holds something."""
    check_folder("out", out)
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"out '{out}' already holds files; give a new folder")


def summed(report: Report) -> str:
    """The reasons, the most frequent first."""
    reasons: Counter[str] = Counter()
    for (_, reason), number in report.dropped.items():
        reasons[reason] += number
    return ", ".join(f"{reason} {number}" for reason, number in reasons.most_common()) or "they are empty"


def write(
    folder: Path,
    sources: Iterable[tuple[str, Source]],
    sieve: CandidateFilter,
    settings: Mapping[str, Any],
    advance: Callable[[str], None],
) -> None:
    """Fill the folder. Raises InputError for a source of which no row can be used."""
    with Writer(folder) as writer, (folder / "dropped.jsonl").open("w", encoding="utf-8") as dropped:
        for text, source in sources:
            error, fine = "", False
            for candidate in source:
                reason = sieve.keeps(candidate)
                error, fine = error or candidate.parse_error, fine or not candidate.parse_error
                if not reason:
                    writer.add(candidate.example)
                elif sieve.report.dropped[candidate.example.source, reason] <= SHOWN:
                    line = {"reason": reason, "detail": candidate.parse_error, **candidate.example.texts()}
                    dropped.write(json.dumps(line, ensure_ascii=False) + "\n")
                advance(candidate.example.source)
            if error and not fine:
                raise InputError(f"source '{text}' has no usable row ({error}); name the set that it is from")
    whole = {"settings": dict(settings), "sources": sieve.report.table()}
    (folder / "report.json").write_text(json.dumps(whole, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
