"""How a run's pictures are varied while it trains, from its recipe to the model's pictures."""

from __future__ import annotations

from luthier.data.augment import Augment
from luthier.models.backbone import Backbone
from luthier.models.processed import ProcessedPictures
from luthier.recipe import ResolvedRecipe
from luthier.recipe.sections import AugmentSection
from luthier.types import Finding, Refused


def give_augment(resolved: ResolvedRecipe, backbone: Backbone) -> None:
    """Raises Refused where there is nothing that would be varied: no pictures, or vectors that are computed once."""
    wanted = resolved.recipe.augment
    if wanted == AugmentSection():
        return
    if backbone.pictures is None:
        what = f"`augment` varies pictures, and {backbone.name} reads none"
        raise Refused(Finding("recipe.combination", "augment", what, "remove it, or choose a model of pictures"))
    if isinstance(backbone.pictures, ProcessedPictures):
        what = f"{backbone.name} has its pictures made by a processor of its own, in which none is varied"
        raise Refused(Finding("recipe.combination", "augment", what, "remove it, or compose a model of two towers"))
    if "features" in resolved.methods.options:
        what = "`features` reads each picture once: none of its variations would be learned"
        raise Refused(Finding("recipe.combination", "augment", what, "use `freeze`, `lora` or `full`"))
    backbone.pictures.augment = Augment(resolved.recipe.seed, **wanted.model_dump())
