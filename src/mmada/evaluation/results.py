"""Results files of evaluation: rows, settings, and the machine and versions that they were computed with."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from mmada.io.atomic import write_text

__all__ = ["machine", "write_results"]


def machine() -> dict[str, object]:
    """The machine and the installed versions."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": dict(versions(("mmada", "torch", "transformers", "numpy", "scikit-learn"))),
    }


def versions(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Installed versions; a package run from its source folder has none."""
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"


def write_results(path: Path, results: Mapping[str, object]) -> None:
    """Write results as JSON, whole or not at all."""
    write_text(path, json.dumps(results, indent=2, default=str) + "\n")
