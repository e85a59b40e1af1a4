"""The command data build: shards from the sets of a YAML file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmada.cli.arguments import FOLDER, PATH, argument, choice, flag, option, whole
from mmada.cli.options import COUNT, MODEL, OWN
from mmada.errors import InputError, check_folder

if TYPE_CHECKING:
    from mmada.data.shard_files import Listing

__all__ = ["DataBuild"]


@dataclass(frozen=True, kw_only=True)
class DataBuild:
    """Build shards: the sets of a YAML file as image codes and token ids, for training at any size. Run it again to go on.

    Example: mmada data build data.yaml --out shards --model nano
    """

    file: Path = argument("The YAML file that describes the sets.", PATH)
    out: Path = option("The folder to write; one of a build that was interrupted is completed.", FOLDER, names=("-o", "--output"))
    model: str = option("The model whose tokenizers are used; the shards are for training it.", MODEL, "nano")
    engine: str = option("How to run it: in this process, or by Ray (pip install 'mmada[ray]').", choice("local", "ray"), "local")
    actors: int = option("Actors of the engine ray.", whole(0, 100_000), 0, shown="one for each GPU, or for each CPU but one")
    image_size: int | None = option("Height and width of the pictures, in pixels.", COUNT, None, shown=OWN)
    shard_rows: int = option("Most rows of a shard.", whole(1, 10**9), 16_384)
    shard_mb: int = option("Size of a shard in megabytes at which the next one begins.", whole(1, 4000), 4000)
    batch: int = option("Rows that are read and encoded at once.", whole(1, 65_536), 32)
    device: str = option("Device of the image tokenizer.", choice("auto", "cpu", "cuda", "mps"), "auto")
    json: bool = flag("Print one line of JSON instead of text.")

    def check(self) -> None:
        """Raise `InputError` for a file in the folder's place, and for actors without Ray."""
        check_folder("--out", self.out)
        if self.actors and self.engine != "ray":
            raise InputError(f"--actors {self.actors} is not used by the engine local; leave it out or add --engine ray")

    def run(self) -> None:
        """Build, and print what is in the shards and what is not."""
        from mmada.data.shard_writer import ShardLimits
        from mmada.recipes.build_ray import RayEngine
        from mmada.recipes.build_shards import BuildJob, build_shards, local_engine

        limits = ShardLimits(self.shard_rows, self.shard_mb * 10**6, self.batch)
        job = BuildJob(
            data=self.file, out=self.out, model=self.model, image_size=self.image_size, device=self.device, limits=limits
        )
        listing = build_shards(job, RayEngine(self.actors) if self.engine == "ray" else local_engine)
        show(listing, self.out, as_json=self.json)


def show(listing: Listing, out: Path, *, as_json: bool) -> None:
    """Print the rows and tokens of each split of each set, and why rows were not used."""
    table = []
    for name, one in listing.sets.items():
        for split in one.rows:
            shards = listing.of(name, split)
            reasons: Counter[str] = Counter()
            for shard in shards:
                reasons.update(shard.rejected)
            rows, tokens = sum(shard.rows for shard in shards), sum(shard.tokens for shard in shards)
            if rows or reasons:
                table.append({"set": name, "split": split, "rows": rows, "tokens": tokens, "not_used": dict(reasons)})
    if as_json:
        print(json.dumps({"out": str(out), "sets": table}, ensure_ascii=False))
        return
    for row in table:
        print(f"{row['set']} ({row['split']}): {row['rows']:,} rows, {row['tokens']:,} tokens")
        for reason, count in row["not_used"].items():  # type: ignore[attr-defined]
            print(f"    not used: {count:,} {reason}")
    print(out)
