"""mmada: unified masked diffusion over text and images.

>>> import mmada
>>> model = mmada.load("nano")                                     # or a folder, or a hub id
>>> model.generate("tom has 3 red and 4 blue pens. how many?").text
>>> model.draw("a red circle above a blue square", seed=7).save("out.png")

Importing the package does no work and does not import torch; the first use of `load` or `MMaDA` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmada.errors import InputError

if TYPE_CHECKING:
    from mmada.pipeline import MMaDA

__all__ = ["InputError", "MMaDA", "__version__", "load"]

__version__ = "0.1.0"


def load(source: str | Path = "nano", **options: Any) -> MMaDA:
    """Load a model: ``"nano"`` (bundled), a folder, or a hub id. Options and errors: `MMaDA.load`."""
    from mmada.pipeline import MMaDA

    return MMaDA.load(source, **options)


def __getattr__(name: str) -> Any:
    if name == "MMaDA":
        from mmada.pipeline import MMaDA

        return MMaDA
    raise AttributeError(f"module 'mmada' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
