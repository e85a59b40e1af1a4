"""Evaluation of models: suites of measures on held-out data over several seeds; decoding modes compared."""

from mmada.evaluation.bench import Workload, bench
from mmada.evaluation.data_suite import data_suite
from mmada.evaluation.likelihood import LikelihoodMeasure, ScoredText
from mmada.evaluation.measure import Measure, Measured, Split, Suite, TaskMeasure
from mmada.evaluation.suite import run_suite

__all__ = [
    "LikelihoodMeasure",
    "Measure",
    "Measured",
    "ScoredText",
    "Split",
    "Suite",
    "TaskMeasure",
    "Workload",
    "bench",
    "data_suite",
    "run_suite",
]
