"""Measuring a model: suites of tasks on held-out data, over several seeds, with their spread."""

from mmada.evaluation.nano import SUITES, run_suite

__all__ = ["SUITES", "run_suite"]
