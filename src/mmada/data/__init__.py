"""Data: examples, data sets and mixtures; a person's own files as a mixture by `load`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmada.data.mixture import Mixture
    from mmada.data.sources.loading import load

__all__ = ["Mixture", "load"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: a model that answers needs none of it."""
    if name == "load":
        from mmada.data.sources.loading import load

        return load
    if name == "Mixture":
        from mmada.data.mixture import Mixture

        return Mixture
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
