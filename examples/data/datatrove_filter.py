"""Bulk text before the shards: datatrove filters it and removes near duplicates, and writes .jsonl that a YAML file names.

    pip install datatrove orjson spacy nltk regex
    python examples/data/datatrove_filter.py CRAWL_FOLDER filtered/
    printf 'web: {use: text, files: "filtered/text/*.jsonl", text: text}\n' > web.yaml
    mmada data build web.yaml --out shards --model nano

The folder holds .jsonl files with a "text" a line. A task is a file; finished tasks are not done again, so a run that was killed
goes on. On a cluster, take SlurmPipelineExecutor in place of LocalPipelineExecutor; the rest stays.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig


def run(name: str, work: Path, tasks: int, workers: int, *pipeline: object) -> None:
    """One stage; what is marked as done in its log folder is skipped."""
    LocalPipelineExecutor(pipeline=list(pipeline), tasks=tasks, workers=workers, logging_dir=str(work / "logs" / name)).run()


def filtered(crawl: Path, out: Path, workers: int, buckets: int = 14) -> Path:
    """The texts of a folder that read like prose, one of each group of near duplicates; returns their folder."""
    config = MinhashConfig(hash_config=HashConfig(hash_fc="sha1"), num_buckets=buckets, hashes_per_bucket=8)
    tasks = len(list(crawl.glob("*.jsonl")))
    work, good = out / "work", str(out / "work" / "good")
    writer = JsonlWriter(good, output_filename="${rank}.jsonl", compression=None)
    run("filter", work, tasks, workers, JsonlReader(str(crawl)), GopherRepetitionFilter(), GopherQualityFilter(), writer)
    signatures, pairs, remove = (str(work / name) for name in ("signatures", "pairs", "remove"))
    run("signatures", work, tasks, workers, JsonlReader(good), MinhashDedupSignature(signatures, config=config))
    run("buckets", work, buckets, workers, MinhashDedupBuckets(signatures, pairs, config=config))
    run("clusters", work, 1, 1, MinhashDedupCluster(pairs, remove, config=config))
    writer = JsonlWriter(str(out / "text"), output_filename="${rank}.jsonl", compression=None)
    run("text", work, tasks, workers, JsonlReader(good), MinhashDedupFilter(remove), writer)
    shutil.rmtree(work / "good")
    return out / "text"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crawl", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    print(filtered(given.crawl, given.out, given.workers))
