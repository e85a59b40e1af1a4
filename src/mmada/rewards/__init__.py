"""Rewards: numbers for completions, added up by a `RewardSum`. Each reward has a file of its own.

Correctness()  Format()  Reasoning()  Detector()     scored by the task, as evaluation does
ClipScore(source, device)  ImageReward(...)          pretrained reward models
any function of completions                          `Reward`
"""

from mmada.rewards.clip_score import ClipScore
from mmada.rewards.combined import Failure, RewardSum, Scores, WeightedReward
from mmada.rewards.correctness import Correctness
from mmada.rewards.detector import Detector
from mmada.rewards.format import Format
from mmada.rewards.image_reward import ImageReward
from mmada.rewards.reasoning import Reasoning
from mmada.rewards.registry import reward_of, reward_sum_of, rewards
from mmada.rewards.reward import Reward, misfit

__all__ = [
    "ClipScore",
    "Correctness",
    "Detector",
    "Failure",
    "Format",
    "ImageReward",
    "Reasoning",
    "Reward",
    "RewardSum",
    "Scores",
    "WeightedReward",
    "misfit",
    "reward_of",
    "reward_sum_of",
    "rewards",
]
