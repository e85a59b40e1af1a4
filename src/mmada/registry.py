"""Registry of names: what `load`, `train`, `eval`, `data` and `bench` know beyond the library itself.

A plugin adds models, recipes, suites, data sources, tasks and workloads by name; the library looks them up here and never imports
a plugin from below. A plugin is a function without arguments that calls `register`; it is found by the entry point group
``mmada.plugins``:

    [project.entry-points."mmada.plugins"]
    mine = "my_package.plugin:register_all"

Values may be given as "package.module:attribute"; they are imported when they are used, so that listing names imports nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from mmada.errors import unknown_name

__all__ = ["DATASETS", "DEMOS", "MODELS", "RECIPES", "SOURCES", "SUITES", "TASKS", "WORKLOADS", "Names", "plugins"]

GROUP = "mmada.plugins"
BUILTIN = ("mmada.nano.plugin:register_all",)
"""Plugins that ship with the package; the others are entry points."""

_loaded: list[str] = []


def plugins() -> tuple[str, ...]:
    """Load every plugin once; returns where they are, as "package.module:function"."""
    if not _loaded:
        found = [point.value for point in entry_points(group=GROUP)]
        for target in dict.fromkeys((*BUILTIN, *found)):
            _loaded.append(target)  # before the call: a plugin may look names up
            resolved(target)()
    return tuple(_loaded)


def resolved(target: str) -> Any:
    """The object that "package.module:attribute" names."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


class Names(Mapping[str, Any]):
    """Name -> object of one kind, those of plugins included; read as a mapping."""

    def __init__(self, kind: str, **builtin: str) -> None:
        self.kind = kind
        self.targets: dict[str, Any] = dict(builtin)

    def register(self, name: str, target: Any) -> None:
        """Add a name: an object, or "package.module:attribute" to import on first use.

        Raises ValueError for a name that is taken by something else.
        """
        if self.targets.get(name, target) != target:
            raise ValueError(f"{self.kind} {name!r} is registered already; choose another name")
        self.targets[name] = target

    def find(self, name: str) -> Any:
        """The object of a name. Raises InputError for an unknown one, with the nearest known name."""
        if name not in self:
            raise unknown_name(self.kind, name, self)
        return self[name]

    def __contains__(self, name: object) -> bool:
        plugins()
        return name in self.targets  # without importing what it names

    def __getitem__(self, name: str) -> Any:
        plugins()
        target = self.targets[name]
        if isinstance(target, str) and ":" in target:
            target = resolved(target)
        return target

    def __iter__(self) -> Iterator[str]:
        plugins()
        return iter(self.targets)

    def __len__(self) -> int:
        plugins()
        return len(self.targets)


MODELS = Names("model")
"""Bundled models: name -> a function that returns the folder."""
RECIPES = Names("recipe", sft="mmada.recipes.sft:sft")
"""Training recipes: name -> a function that returns the settings."""
SUITES = Names("suite")
"""Evaluation suites: name -> `mmada.evaluation.Suite`."""
SOURCES = Names("source")
"""Kinds of reasoning data and prompts, as in ``KIND:ARGUMENTS``."""
TASKS = Names(
    "task",
    mathematics="mmada.tasks.mathematics:MATHEMATICS",
    vqa="mmada.tasks.vqa:VISUAL_QUESTIONS",
    text_to_image="mmada.tasks.text_to_image:TEXT_TO_IMAGE",
)
"""Tasks: they make prompts and score completions."""
DATASETS = Names(
    "dataset",
    captions="mmada.data.readers:captions",
    chat="mmada.data.readers:chat",
    text="mmada.data.readers:text",
    reasoning="mmada.data.readers:reasoning",
)
"""Kinds of training data: name -> a reader, a function of a path and options that returns a data set."""
WORKLOADS = Names("workload")
"""Workloads of `mmada bench`: name -> `mmada.evaluation.Workload`."""
DEMOS = Names("demo")
"""Demos by model: name -> a function of image, prompt and out that returns the contact sheet's path."""
