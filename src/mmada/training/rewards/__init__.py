"""Rewards: numbers for completions, added up by a `Judge`.

Correctness()  Format()  Detector()    verified by the tasks, as evaluation does
Clip(source, device)                   models that others trained
any function of completions            `Reward`
"""

from mmada.training.rewards.clip import Clip
from mmada.training.rewards.completion import Asked, Caption, Completion, Reward
from mmada.training.rewards.image_reward import ImageReward
from mmada.training.rewards.judge import Failure, Judge, Scores, Term
from mmada.training.rewards.named import REWARDS, UNFIT, judge_of, reward_of
from mmada.training.rewards.verified import Correctness, Detector, Format, Reasoning

__all__ = [
    "REWARDS",
    "UNFIT",
    "Asked",
    "Caption",
    "Clip",
    "Completion",
    "Correctness",
    "Detector",
    "Failure",
    "Format",
    "ImageReward",
    "Judge",
    "Reasoning",
    "Reward",
    "Scores",
    "Term",
    "judge_of",
    "reward_of",
]
