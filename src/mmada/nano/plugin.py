"""What the nano world adds to the registry of names."""

from __future__ import annotations

from mmada.registry import MODELS, RECIPES, SUITES

__all__ = ["register_all"]

NANO_RECIPES = {
    "image_tokenizer": "mmada.recipes.tokenizer:image_tokenizer",
    "image_decoder": "mmada.recipes.tokenizer:image_decoder",
    "pretrain": "mmada.recipes.sft:pretrain",
    "instruct": "mmada.recipes.sft:instruct",
    "cot": "mmada.recipes.sft:cot",
    "distill": "mmada.recipes.distill:distill",
    "rl_math": "mmada.recipes.rl:rl_math",
    "rl_vision": "mmada.recipes.rl:rl_vision",
    "rl_image": "mmada.recipes.rl:rl_image",
    "rl": "mmada.recipes.rl:rl",
}


def register_all() -> None:
    """Add the bundled model, its recipes and its suite."""
    MODELS.register("nano", "mmada.nano.assets:folder")
    SUITES.register("nano", "mmada.evaluation.suite:run_nano")
    for name, target in NANO_RECIPES.items():
        RECIPES.register(name, target)
