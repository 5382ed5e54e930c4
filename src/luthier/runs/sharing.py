"""Whether what several answers begin with is computed once in a run, and if not, why."""

from __future__ import annotations

from typing import Any

from luthier.models.backbone import Backbone
from luthier.objectives import bradley_terry
from luthier.objectives.online import OnlineObjective
from luthier.objectives.preference import PreferenceObjective
from luthier.runs.prepared import Prepared
from luthier.types import Finding


def settle_sharing(prepared: Prepared) -> list[Finding]:
    """Once the method is in the model: a note where prompts can't be shared, whose rows then count whole."""
    objective, backbone = prepared.objective, prepared.backbone
    if not objective_shares(objective) or backbone.shares:
        return []
    for side in (prepared.train, prepared.evaluation, prepared.selection):
        for row in side.rows:
            row.pop("spared", None)
    why = unshared(backbone)
    what = f"a prompt is computed for each of its answers, not once for all: {why}"
    return [] if why == "turned off" else [Finding("model.unshared", "packing", what, severity="note")]


def unshared(backbone: Backbone) -> str:
    """Why this model computes beginnings anew for each sequence."""
    if backbone.layout == "padded":
        return backbone.unpacked_because
    return backbone.unshared_because or "virtual tokens stand before each sequence"


def objective_shares(objective: Any) -> bool:
    """Whether it learns from several sequences that may begin alike."""
    return isinstance(objective, OnlineObjective | PreferenceObjective | bradley_terry.Objective) and objective.shares
