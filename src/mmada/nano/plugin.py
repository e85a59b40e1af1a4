"""Registration of the nano world in the registry of names."""

from __future__ import annotations

from mmada.registry import DEMOS, MODELS, RECIPES, SOURCES, SUITES, TASKS, WORKLOADS

__all__ = ["register_all"]

NANO_RECIPES = {
    "image_tokenizer": "mmada.nano.tokenizer:image_tokenizer",
    "image_decoder": "mmada.nano.tokenizer:image_decoder",
    "pretrain": "mmada.nano.recipes:pretrain",
    "instruct": "mmada.nano.recipes:instruct",
    "cot": "mmada.nano.recipes:cot",
    "distill": "mmada.nano.distill:distill",
    "rl_math": "mmada.nano.rl_recipes:rl_math",
    "rl_vision": "mmada.nano.rl_recipes:rl_vision",
    "rl_image": "mmada.nano.rl_recipes:rl_image",
    "rl": "mmada.nano.rl_recipes:rl",
}


def register_all() -> None:
    """Add the bundled model, its recipes, suite, workloads, demo, sources and tasks."""
    MODELS.register("nano", "mmada.nano.assets:folder")
    SUITES.register("nano", "mmada.nano.suite:SUITE")
    DEMOS.register("nano", "mmada.nano.demo:run_demo")
    for name in ("math", "questions", "draw"):
        WORKLOADS.register(name, f"mmada.nano.suite:{name.upper()}")
    SOURCES.register("nano", "mmada.nano.sources:NANO")
    for name, attribute in (("nano_math", "MATH"), ("nano_vision", "VISION"), ("nano_image", "IMAGE")):
        TASKS.register(name, f"mmada.nano.tasks:{attribute}")
    for name, target in NANO_RECIPES.items():
        RECIPES.register(name, target)
