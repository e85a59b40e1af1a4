"""Random rows of training data: memory-mapped shards against parquet row groups, in one run.

    python benchmarks/shards.py [--rows 200000] [--draws 20000] [--rounds 3] [--out benchmarks/results/shards.json]

Rows are pictures of 64, 256 or 1,024 codes (50, 30, 20 %) with a caption, written by the writer of `mmada data build`, and as
parquet (needs pyarrow) in row groups of 100 and 1,000 with the same codes as binary. Every way reads the same random rows, in
batches of 256, and must give the same codes. Prints and keeps rows a second (the median of the rounds, with the lowest and the
highest), and the ratio of shards to each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmada.data.dataset import Example
from mmada.data.shard_files import TOKENIZER, Listing, SetEntry, write_listing
from mmada.data.shard_rows import RowFormat
from mmada.data.shard_writer import ShardLimits, units_of, write_shards
from mmada.data.shards import ShardedDataset, ShardedSplit, text_fingerprint
from mmada.evaluation.results import machine
from mmada.pipeline.loading import find_folder
from mmada.tokenizers.text import TextTokenizer

BATCH = 256
CODEBOOK = 8192
GROUPS = (100, 1000)
Array = np.ndarray[Any, Any]


class Pictures:
    """Rows of random codes with a caption, the same for the same number."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng(index)
        side = (8, 16, 32)[int(rng.choice(3, p=(0.5, 0.3, 0.2)))]
        return Example(objective="text_to_image", text=f"picture {index}", codes=(rng.integers(0, CODEBOOK, (side, side)),))


def write(folder: Path, rows: int) -> ShardedSplit:
    """Shards of `Pictures`."""
    text = TextTokenizer.load(find_folder("nano"))
    format, data = RowFormat(text, CODEBOOK), Pictures(rows)
    shards = [
        entry
        for unit in units_of("pictures", 0, "train", rows, (), 65_536)
        for entry in write_shards(unit, data, str, lambda images: [], folder, format, ShardLimits(rows=65_536, batch=1024))
    ]
    (folder / TOKENIZER).mkdir()
    text.save(folder / TOKENIZER)
    listing = Listing(
        text=text_fingerprint(text), image="", codebook_size=CODEBOOK, complete=True, shards=shards,
        sets={"pictures": SetEntry(use="pair", weight=1, rows={"train": rows})},
    )  # fmt: skip
    write_listing(folder, listing)
    return ShardedDataset(folder)["pictures"]


def write_parquet(path: Path, shards: ShardedSplit, group: int) -> None:
    """The codes and captions of shards as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, pa.schema([("codes", pa.binary()), ("text", pa.binary())])) as writer:
        for start in range(0, len(shards), 20_000):
            rows = shards.batch(range(start, min(start + 20_000, len(shards))))
            table = pa.table({"codes": list(pieces(rows.codes, rows.codes_at)), "text": list(pieces(rows.text, rows.text_at))})
            writer.write_table(table, row_group_size=group)


def pieces(flat: Array, at: Array) -> Iterator[bytes]:
    """The bytes of each row."""
    for start, end in zip(at[:-1].tolist(), at[1:].tolist(), strict=True):
        yield flat[start:end].tobytes()


def parquet_reader(path: Path, group: int) -> Callable[[Sequence[int]], list[bytes]]:
    """A function that reads rows of a parquet file by their row groups, each once a batch."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, memory_map=True)

    def read(rows: Sequence[int]) -> list[bytes]:
        wanted: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            wanted.setdefault(row // group, []).append(place)
        found: list[bytes] = [b""] * len(rows)
        for number, places in wanted.items():
            column = file.read_row_group(number, columns=["codes", "text"]).column("codes")
            for place in places:
                found[place] = column[rows[place] % group].as_py()
        return found

    return read


def measure(read: Callable[[Sequence[int]], object], batches: list[list[int]]) -> float:
    """Rows a second."""
    start = time.perf_counter()
    for rows in batches:
        read(rows)
    return sum(map(len, batches)) / (time.perf_counter() - start)


def main() -> None:
    """Write, check that all give the same, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--draws", type=int, default=20_000, help="rows that the slower ways read in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        shards = write(folder / "shards", given.rows)
        print(f"{given.rows:,} rows written in {time.perf_counter() - start:.0f} s, {int(shards.tokens().sum()):,} tokens")
        rng = np.random.default_rng(0)
        draws = [rng.integers(0, given.rows, BATCH).tolist() for _ in range(given.draws // BATCH)]
        ways: dict[str, tuple[Callable[[Sequence[int]], object], list[list[int]]]] = {
            "shards, batch": (shards.batch, draws * 10),
            "shards, examples": (shards.many, draws),
        }
        for group in GROUPS:
            write_parquet(folder / f"{group}.parquet", shards, group)
            read = parquet_reader(folder / f"{group}.parquet", group)
            batch = shards.batch(draws[0])
            assert read(draws[0]) == list(pieces(batch.codes, batch.codes_at)), "both give the same codes"
            ways[f"parquet, row groups of {group}"] = (read, draws[: max(1, len(draws) * 100 // group // 2)])
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(given.rounds):  # interleaved, so that other work on the machine meets all of them
            for way, (read_rows, batches) in ways.items():
                found[way].append(measure(read_rows, batches))
        size = sum(path.stat().st_size for path in (folder / "shards").rglob("*.*"))
    best = statistics.median(found["shards, batch"])
    table = {
        way: {"rows_per_second": round(statistics.median(rates)), "lowest": round(min(rates)), "highest": round(max(rates)),
              "shards_to_this": round(best / statistics.median(rates), 1)}
        for way, rates in found.items()
    }  # fmt: skip
    for way, row in table.items():
        print(
            f"{way:28} {row['rows_per_second']:>9,} rows/s  ({row['lowest']:,} to {row['highest']:,})   {row['shards_to_this']} x"
        )
    if given.out:
        kept = {"rows": given.rows, "batch": BATCH, "megabytes": round(size / 1e6, 1), "machine": machine(), "ways": table}
        given.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
