"""Luthier: adapt pretrained language and multimodal models to a task; any method, any objective, one engine.

Names are imported when they are first used, so that ``import luthier`` and ``luthier --help`` are quick.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.comparison.conduct import Comparison, compare
    from luthier.runs.conduct import check, tune
    from luthier.runs.finished.switch import Switch
    from luthier.runs.run import Run, load
    from luthier.types import Finding, Refused

__all__ = ["Comparison", "Finding", "Refused", "Run", "Switch", "check", "compare", "load", "tune"]

_HOMES = {"Run": "runs.run", "load": "runs.run", "tune": "runs.conduct", "check": "runs.conduct"}
_HOMES |= {"Comparison": "comparison.conduct", "compare": "comparison.conduct", "Switch": "runs.finished.switch"}
_HOMES |= {"Finding": "types", "Refused": "types"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"luthier.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'luthier' has no attribute {name!r}")
