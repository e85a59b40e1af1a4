"""Reading a YAML file of data: every set is described, its files are listed, and its rows are ready to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from mmada.data.dataset import UnusableRow
from mmada.data.mixture import Mixture, SourceSet
from mmada.data.shards import ShardedDataset, ShardedSet, is_shards
from mmada.data.sources.fields import parse_field
from mmada.data.sources.folders import files_below
from mmada.data.sources.grammar import (
    JoinSpec,
    MixtureSpec,
    SetSpec,
    ShardsSpec,
    Shares,
    SplitField,
    TextSpec,
    WithImages,
    parse_mixture,
    parse_set,
)
from mmada.data.sources.joins import Lookup
from mmada.data.sources.meanings import meaning_of, tasks_of
from mmada.data.sources.opening import open_tables
from mmada.data.sources.parquet import ParquetTable
from mmada.data.sources.paths import files_of, roots_of
from mmada.data.sources.row_set import Choice, RowSet
from mmada.data.sources.splits import SMALL
from mmada.data.sources.tables import Joined, Row, Table
from mmada.data.sources.where import parse_where
from mmada.errors import InputError, check_path, quote
from mmada.io.documents import read_yaml

__all__ = ["HEAD", "load", "load_sets", "set_of"]

TEXTS = (".txt", ".md")
RESERVED = "mixture"
HEAD = 64
"""First rows of a set that are looked at when it is loaded."""


def load(file: str | PathLike[str]) -> Mixture:
    """The mixture that a YAML file describes, or a folder of shards; relative paths in a file are relative to it.

    Files are listed and headers read; rows are read when they are asked for, except that ``where``, ``id`` and a split by a field
    need every row once. Raises InputError for anything wrong in the file, and for data that is not there.
    """
    path = check_path("data file", file)
    if is_shards(path):
        return ShardedDataset(path).mixture
    given = read_yaml(path, "data file")
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"data file {quote(path)} describes no set; write one as name: {{use: pair, files: ...}}")
    return load_sets(given, path.parent, path.name)


def load_sets(given: Mapping[Any, Any], base: Path, where: str = "data") -> Mixture:
    """The mixture of sets that are described by a mapping; ``where``: what messages call it. Raises InputError."""
    mixture = parse_mixture(given.get(RESERVED, {}), where)
    named = {name: spec for name, spec in given.items() if name != RESERVED}
    for name in named:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"name {quote(name)} of a set of {where} is not a text; put it in quotes")
    if not named:
        raise InputError(f"{where} describes no set; write one as name: {{use: pair, files: ...}}")
    specs = {name: parse_set(name, spec, where) for name, spec in named.items()}
    sets: dict[str, SourceSet] = {}
    weights: dict[str, float] = {}
    for name, spec in specs.items():
        what = f"set {quote(name)} of {where}"
        if isinstance(spec, ShardsSpec):
            sets[name], weights[name] = sharded_set(name, spec, base, what)
        else:
            sets[name], weights[name] = set_of(name, spec, base, what, mixture), spec.weight
    if not any(weights.values()):
        raise InputError(f"no set of {where} has a weight above 0; give at least one a weight")
    return Mixture(sets, weights, mixture.weights)


def sharded_set(name: str, spec: ShardsSpec, base: Path, what: str) -> tuple[ShardedSet, float]:
    """A set of a folder of shards, and its weight. Raises InputError."""
    folder = base / check_path(f"shards of {what}", spec.shards)
    if not is_shards(folder):
        raise InputError(f"shards {quote(spec.shards)} of {what} are not a folder that `mmada data build` wrote; check the path")
    sharded = ShardedDataset(folder).mixture
    wanted = spec.set or name
    found = sharded.sets.get(wanted)
    if not isinstance(found, ShardedSet):
        known = ", ".join(sharded.sets)
        raise InputError(f"shards {quote(spec.shards)} of {what} have no set {quote(wanted)}; give one with set: {known}")
    return replace(found, name=name), sharded.weights[wanted] if spec.weight is None else spec.weight


def set_of(name: str, spec: SetSpec, base: Path, what: str, mixture: MixtureSpec) -> RowSet:
    """A set, its files listed. ``what``: what messages call it. Raises InputError."""
    files, kind = files_of(spec.files, base, f"files of {what}"), spec.kind
    if isinstance(spec, TextSpec) and kind in (None, "texts") and all(path.is_dir() for _, path in files):
        files, kind = texts_below(files, what), "texts"
    table = open_tables(files, kind, f"file of {what}", spec.rows)
    if not len(table):
        raise InputError(f"{what} has no rows in {quote(str(spec.files))}; check the file")
    lookup = joined(spec.join, base, what) if spec.join is not None else None
    head = head_of(table, lookup)
    meaning = meaning_of(name, spec, base, table, head, what)
    choice = choice_of(spec, table, what, mixture)
    read = meaning.fields
    if read is not None:
        for one in tables_in(table):
            if isinstance(one, ParquetTable):
                one.read_only(read | choice.names | (lookup.needs if lookup else frozenset()))
    roots: tuple[Path, ...] = ()
    if isinstance(spec, WithImages) and spec.images:
        roots = roots_of(spec.images, base, f"images of {what}")
    return RowSet(
        name,
        spec.use,
        table,
        meaning,
        roots or table.folders,
        spec.replace,
        lookup,
        choice,
        tasks_of(spec, meaning),
        mixture.max_bad if spec.max_bad is None else spec.max_bad,
    )


def texts_below(folders: Sequence[tuple[str, Path]], what: str) -> list[tuple[str, Path]]:
    """The text files in some folders, each of which is a row. Raises InputError where there is none."""
    found = [(name, folder / name) for _, folder in folders for name in files_below(folder) if Path(name).suffix.lower() in TEXTS]
    if not found:
        raise InputError(f"{what} has no {' or '.join(TEXTS)} in {quote(folders[0][1])}; check the path")
    return found


def tables_in(table: Table) -> list[Table]:
    """The tables of which one is made."""
    return list(table.tables) if isinstance(table, Joined) else [table]


def joined(spec: JoinSpec, base: Path, what: str) -> Lookup:
    """The rows that a set is joined with. Raises InputError."""
    where = f"join of {what}"
    table = open_tables(files_of(spec.files, base, f"files in the {where}"), spec.kind, f"file in the {where}", spec.rows, True)
    return Lookup.of(table, spec.key, spec.by or spec.key, where)


def head_of(table: Table, lookup: Lookup | None) -> list[Row]:
    """The first rows that can be read."""
    found: list[Row] = []
    for index in range(min(HEAD, len(table))):
        try:
            row = table[index]
            found.append(row if lookup is None else lookup.attached(row))
        except UnusableRow:
            continue
    return found


def choice_of(spec: SetSpec, table: Table, what: str, mixture: MixtureSpec) -> Choice:
    """Which rows are used, and how they are split. Raises InputError."""
    rule = spec.split
    if rule is None:
        rule = mixture.split or (Shares() if len(table) >= SMALL else "train")
    return Choice(
        where=parse_where(spec.where, f"where of {what}") if spec.where.strip() else None,
        id=None if spec.id is None else parse_field(spec.id, f"id of {what}"),
        split=rule,
        split_field=parse_field(rule.field, f"split of {what}") if isinstance(rule, SplitField) else None,
    )
