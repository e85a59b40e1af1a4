"""Studies of the paper's claims: they train several arms over several seeds and compare them (study.md, log.md)."""

from mmada.registry import RECIPES

__all__ = ["STUDIES", "register_all"]

STUDIES = ("study_noising", "study_league", "study_stage", "study_tasks")


def register_all() -> None:
    """Add the studies to the recipes."""
    for name in STUDIES:
        RECIPES.register(name, f"experiments.study:{name}")
