"""What methods share: the base of their options, and how a whole model is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from luthier.models.backbone import Backbone
from luthier.options import Options


class MethodOptions(Options):
    """A method's section of a recipe."""

    whole: ClassVar[bool] = True
    """What it saves is a whole model; else the method's module has ``attach``."""

    def load_kwargs(self) -> dict[str, Any]:
        """What it asks of ``from_pretrained``."""
        return {}

    def needs(self, objective_needs: str) -> str:
        """What the model must give: what the objective needs, or less."""
        return objective_needs


def save_whole(backbone: Backbone) -> Callable[[Path], None]:
    """Save as ``save_pretrained`` does, for `AutoModel...from_pretrained`."""

    def save(folder: Path) -> None:
        backbone.model.save_pretrained(folder)

    return save
