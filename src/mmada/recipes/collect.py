"""Collection of reasoning data: filter candidates from several sources and write them to a folder.

FOLDER/examples.jsonl, pictures/    the stored examples (`mmada.data.reasoning`)
FOLDER/report.json                  settings, and for each source the number read, stored, and dropped by reason
FOLDER/dropped.jsonl                a few dropped examples of each source and reason, for inspection
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmada import __version__
from mmada.data.reasoning import ReasoningExample, Writer, form_error, normalised
from mmada.data.set_files import prompts_in
from mmada.errors import InputError, check_folder, check_is_folder, check_whole
from mmada.io.atomic import atomic_folder
from mmada.pipeline import MMaDA
from mmada.pipeline.loading import find_folder
from mmada.recipes.collect_sources import Candidate, SelfGenerated, Source, source_of, unreadable
from mmada.rl.rollout import RolloutSampling
from mmada.tokenizers.text import TextTokenizer

__all__ = ["CandidateFilter", "Report", "Selection", "collect_reasoning"]

MAX_DROPPED = 5
"""Maximum dropped examples that are written for each source and reason."""


@dataclass
class Report:
    """Counts of the candidates of each source. ``unchecked``: stored without a gold answer to check against."""

    read: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    unchecked: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)

    def table(self) -> list[dict[str, object]]:
        """One row per source: read, kept, unchecked, and the number dropped by each reason."""
        rows: list[dict[str, object]] = []
        for source in self.read:
            row: dict[str, object] = {"source": source, "read": self.read[source], "kept": self.kept[source]}
            reasons = {reason: n for (name, reason), n in self.dropped.most_common() if name == source}
            rows.append({**row, "unchecked": self.unchecked[source], "dropped": reasons})
        return rows


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Criteria for storing correct examples.

    ``unchecked``: also examples without a gold answer. ``plain``: also answers without reasoning. ``per_prompt``: maximum
    answers to one prompt. ``max_tokens``: maximum tokens of prompt and answer. ``forbidden``: prompts that must not occur
    (as `normalised`).
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
    """Stateful filter of candidates, which also drops exact duplicates. ``tokens``: number of tokens of a text."""

    def __init__(self, choice: Selection, tokens: Callable[[str], int] | None = None) -> None:
        self.choice = choice
        self.tokens = tokens
        self.report = Report()
        self.known: set[str] = set()
        self.answered: Counter[str] = Counter()

    def reject_reason(self, candidate: Candidate) -> str:
        """Count a candidate and return why it is dropped, empty if it is stored. The most expensive check comes last."""
        example = candidate.example
        reason = f"unusable row: {candidate.parse_error}" if candidate.parse_error else ""
        reason = reason or form_error(example, plain=self.choice.plain) or candidate.reject_reason or self.not_selected(example)
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
        self.answered[example.prompt_key] += 1
        self.report.kept[example.source] += 1
        self.report.unchecked[example.source] += unchecked
        return ""

    def not_selected(self, example: ReasoningExample) -> str:
        """Why the criteria exclude an example, whether it is correct or not; empty if they do not."""
        choice = self.choice
        if normalised(example.prompt) in choice.forbidden:
            return "forbidden prompt"
        if example.key in self.known:
            return "duplicate"
        if choice.per_prompt is not None and self.answered[example.prompt_key] >= choice.per_prompt:
            return "enough of this prompt"
        if choice.max_tokens is None or self.tokens is None:
            return ""
        return "too long" if self.tokens(f"{example.prompt}\n{example.target_text}") > choice.max_tokens else ""


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
    """Read ``sources`` (see `mmada.recipes.collect_sources`), filter them and write the folder ``out``.

    ``load``: the model whose own answers are sampled, called only if a source needs it; ``samples`` per prompt with the options
    ``sampling``. ``tokenizer``: model whose tokens ``choice.max_tokens`` counts. ``advance`` is called with the source of
    each candidate. The folder is written completely or not at all. Raises InputError for an invalid source, file or setting, and
    if no example is left.
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
            raise InputError(f"max_tokens {chosen.max_tokens} needs a tokenizer; name a model")
        tokens = TextTokenizer.load(find_folder(tokenizer)).encode
    candidate_filter = CandidateFilter(chosen, None if tokens is None else lambda text: len(tokens(text)))
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
            write(part, zip(sources, opened, strict=True), candidate_filter, settings, advance)
            if not candidate_filter.report.kept:
                read = sum(candidate_filter.report.read.values())
                raise InputError(f"sources have no usable example among {read} ({summed(candidate_filter.report)}); give others")
    except OSError as error:
        raise InputError(f"out '{out}' cannot be written: {error.strerror or error}") from error
    return candidate_filter.report


def forbidden_prompts(paths: Sequence[Path]) -> frozenset[str]:
    """The normalised prompts of test sets. Raises InputError for a file that cannot be read."""
    try:
        return frozenset(normalised(prompt) for path in paths for prompt in prompts_in(path)) - {""}
    except InputError as error:
        raise InputError(f"decontaminate: {error}") from error


def check_free(out: Path) -> None:
    """Raise InputError if the folder is not empty."""
    check_folder("out", out)
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"out '{out}' already holds files; give a new folder")


def summed(report: Report) -> str:
    """The reasons with their counts, the most frequent first."""
    reasons: Counter[str] = Counter()
    for (_, reason), number in report.dropped.items():
        reasons[reason] += number
    return ", ".join(f"{reason} {number}" for reason, number in reasons.most_common()) or "they are empty"


def write(
    folder: Path,
    sources: Iterable[tuple[str, Source]],
    candidate_filter: CandidateFilter,
    settings: Mapping[str, Any],
    advance: Callable[[str], None],
) -> None:
    """Write the files of the folder. Raises InputError for a source without a usable row."""
    with Writer(folder) as writer, (folder / "dropped.jsonl").open("w", encoding="utf-8") as dropped:
        for text, source in sources:
            error, fine = "", False
            for candidate in source:
                reason = candidate_filter.reject_reason(candidate)
                error, fine = error or candidate.parse_error, fine or not candidate.parse_error
                if not reason:
                    writer.add(candidate.example)
                elif candidate_filter.report.dropped[candidate.example.source, reason] <= MAX_DROPPED:
                    line = {"reason": reason, "detail": candidate.parse_error, **candidate.example.texts()}
                    dropped.write(json.dumps(line, ensure_ascii=False) + "\n")
                advance(candidate.example.source)
            if error and not fine:
                raise InputError(f"source '{text}' has no usable row ({error}); give the name of its data set")
    whole = {"settings": dict(settings), "sources": candidate_filter.report.table()}
    (folder / "report.json").write_text(json.dumps(whole, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
