"""Files of a set: paths, patterns and numbered shards as one list in a fixed order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path

from mmada.errors import InputError, check_path, quote

__all__ = ["files_of", "natural", "roots_of"]

MAX_FILES = 10_000_000
"""Files that one pattern may name."""
BRACES = re.compile(r"\{([^{}]*)\}")
COUNT = re.compile(r"(-?\d+)\.\.(-?\d+)")


def files_of(patterns: str | Sequence[str], base: Path, what: str) -> list[tuple[str, Path]]:
    """(name, path) of every file that ``patterns`` name, in natural order within a pattern.

    A pattern may have ``*``, ``?``, ``[ab]``, ``**``, ``{a,b}`` and ``{000..999}``; it is relative to ``base``, and from the
    current folder where nothing is there. ``name`` is the path below the fixed part of the pattern: it stays the same when the
    data is moved. Raises InputError for a pattern that finds nothing.
    """
    found: dict[Path, str] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        check_path(what, pattern)
        for name, path in expanded(os.path.expanduser(pattern), base, what):
            found.setdefault(path, name)
    return [(name, path) for path, name in found.items()]


def expanded(pattern: str, base: Path, what: str) -> list[tuple[str, Path]]:
    """The files of one pattern."""
    for folder in dict.fromkeys((base, Path())):
        literal = folder / pattern
        if literal.exists():  # also names that have [ or { in them
            return [(literal.name, literal)]
    alternatives = list(braced(pattern, what))
    for folder in dict.fromkeys((base, Path())):
        found = [matches(one, folder) for one in alternatives]
        if any(found):
            missing = [one for one, some in zip(alternatives, found, strict=True) if not some]
            if missing:
                raise InputError(
                    f"{what} {quote(pattern)} lacks {len(missing)} of {len(alternatives)} files, first {quote(missing[0])}; "
                    f"get them, or name those that are there"
                )
            return [one for some in found for one in some]
    if has_magic(pattern) or len(alternatives) > 1:
        raise InputError(f"{what} {quote(pattern)} finds nothing in {quote(base)}; check the pattern")
    raise InputError(f"{what} {quote(base / pattern)} does not exist; check the path")


def matches(pattern: str, folder: Path) -> list[tuple[str, Path]]:
    """The files of a pattern without braces."""
    whole = folder / pattern
    if not has_magic(pattern):
        return [(whole.name, whole)] if whole.exists() else []
    parts = Path(pattern).parts
    fixed = folder.joinpath(*parts[: next(i for i, part in enumerate(parts) if has_magic(part))])
    found = sorted(glob(str(whole), recursive=True), key=natural)
    paths = [Path(one) for one in found if not Path(one).name.startswith(".")]
    if any(path.is_file() for path in paths):
        paths = [path for path in paths if path.is_file()]
    return [(path.relative_to(fixed).as_posix(), path) for path in paths]


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key that puts 9 before 10."""
    return [(0, int(part), part) if part.isascii() and part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def braced(pattern: str, what: str) -> Iterator[str]:
    """The patterns that ``{a,b}`` and ``{00..12}`` stand for."""
    match = BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    inside = match[1]
    if counted := COUNT.fullmatch(inside):
        first, last = int(counted[1]), int(counted[2])
        if abs(last - first) >= MAX_FILES:
            raise InputError(f"{what} {quote(pattern)} names more than {MAX_FILES} files; use * instead")
        padded = any(len(one) > 1 and one.lstrip("-").startswith("0") for one in counted.groups())
        width = max(map(len, counted.groups())) if padded else 0
        step = 1 if last >= first else -1
        some = [f"{number:0{width}d}" for number in range(first, last + step, step)]
    elif "," in inside:
        some = inside.split(",")
    else:
        some = [match[0]]
    for one in some:
        for rest in braced(pattern[match.end() :], what):
            yield pattern[: match.start()] + one + rest


def roots_of(roots: str | Sequence[str], base: Path, what: str) -> tuple[Path, ...]:
    """Folders in which pictures are looked for. Raises InputError for one that is not there."""
    found = []
    for root in [roots] if isinstance(roots, str) else roots:
        check_path(what, root)
        root = os.path.expanduser(root)
        folder = next((one / root for one in (base, Path()) if (one / root).is_dir()), None)
        if folder is None:
            raise InputError(f"{what} {quote(base / root)} is not a folder; check the path")
        found.append(folder)
    return tuple(found)
