"""Measuring a model: suites of tasks on held-out data, over several seeds, with their spread; decoding modes side by side."""

from mmada.evaluation.bench import WORKS, bench
from mmada.evaluation.suite import SUITES, run_suite

__all__ = ["SUITES", "WORKS", "bench", "run_suite"]
