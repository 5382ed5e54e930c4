"""L: the loss. One file per objective, one line here.

An objective module has ``Options`` and ``Objective``: ``encode(example) -> Features``, ``collate(features) -> Batch``,
``loss(backbone, batch) -> LossTerms``. It declares what it ``needs`` of a model and whether it ``couples`` the rows
of a batch. It never asks which method is in force.
"""

from typing import Any

from luthier.registry import Registry

OBJECTIVES = Registry(
    next_token="luthier.objectives.next_token",
    classification="luthier.objectives.classification",
    multi_label="luthier.objectives.multi_label",
    regression="luthier.objectives.regression",
    tags="luthier.objectives.tags",
    span="luthier.objectives.span",
    contrastive="luthier.objectives.contrastive",
    image_text="luthier.objectives.image_text",
    distill="luthier.objectives.distill",
)


def objective_class(name: str, own: str) -> Any:
    """The class of an objective. ``own`` is the task's: what a teacher is compared in. Raises Refused."""
    module = OBJECTIVES.load(name)
    return module.over(own) if name == "distill" else module.Objective
