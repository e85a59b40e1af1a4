"""Rewards: numbers for completions, added up by a `RewardSum`.

Correctness()  Format()  Detector()    verified by the tasks, as evaluation does
ClipScore(source, device)                   models that others trained
any function of completions            `Reward`
"""

from mmada.rewards.clip_score import ClipScore
from mmada.rewards.combined import Failure, RewardSum, Scores, WeightedReward
from mmada.rewards.completion import Caption, Completion, Prompt, Reward
from mmada.rewards.image_reward import ImageReward
from mmada.rewards.registry import REWARDS, UNFIT, reward_of, reward_sum_of
from mmada.rewards.verified import Correctness, Detector, Format, Reasoning

__all__ = [
    "REWARDS",
    "UNFIT",
    "Caption",
    "ClipScore",
    "Completion",
    "Correctness",
    "Detector",
    "Failure",
    "Format",
    "ImageReward",
    "Prompt",
    "Reasoning",
    "Reward",
    "RewardSum",
    "Scores",
    "WeightedReward",
    "reward_of",
    "reward_sum_of",
]
