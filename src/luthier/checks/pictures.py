"""What a model makes of pictures and of the words beside them, and what was made of pictures before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from luthier.engine.precision import autocast
from luthier.models.modes import evaluating
from luthier.models.vision.illustrated import Illustrated
from luthier.objectives.online import OnlineObjective
from luthier.objectives.preference import PreferenceObjective
from luthier.types import Batch, Features, Finding

if TYPE_CHECKING:
    from luthier.runs.prepared import Prepared

TRIED = 8
ANSWERS = ("sequence_logits", "action_flow")
"""Needs of objectives whose targets are apart from the row's text."""


def pictures_seen(prepared: Prepared) -> list[Finding]:
    """Other pictures or sounds in the same rows give another loss; a model that does not heed them is refused."""
    rows = [row for row in prepared.train.rows if row.get("pictures")][:TRIED]
    rows = [row | {"weight": row["weight"] * (1 + at)} for at, row in enumerate(rows)]  # alike but for their pictures
    if len({key for row in rows for key in row["pictures"]}) < 2:
        return []
    batch, changed = (_read_by(prepared.objective).collate(rows) for _ in range(2))
    for name in ("pixel_values", "picture_lengths"):
        if name in changed.tensors:
            changed.tensors[name] = changed[name].roll(1, dims=0)
    first, second = (_loss(prepared, rows, one) for one in (batch, changed))
    kind, heed = ("sounds", "listen to") if prepared.backbone.sounds is not None else ("pictures", "look at")
    why = f"the model does not {heed} them: it would learn from the text alone"
    return [_unheeded(prepared, rows, first, "model.image-blind", kind, why)] if first == second else []


def places_kept(prepared: Prepared) -> list[Finding]:
    """Each picture has all the tokens that the model makes of it in each sequence of its row, and none of them is
    learned."""
    backbone = prepared.backbone
    if not isinstance(backbone, Illustrated):
        return []
    findings = []
    for row in prepared.train.rows:
        wanted = sum(backbone.places(key).count(backbone.image_id) for key in row.get("pictures", ()))
        wanted *= len(row.get("lengths", "1"))
        at = [place for place, token in enumerate(row["input_ids"]) if token == backbone.image_id]
        learned = "supervised" in row and any(row["supervised"][place] for place in at)
        if learned or len(at) != wanted:
            source = prepared.train.examples[row["row"]].source
            what = f"{len(at)} places of {backbone.shows} stand in this row, where these make {wanted}"
            what = f"a place of {backbone.shows} would be learned as if it were written" if learned else what
            findings.append(Finding("data.picture-places", str(source), what, "raise `max_length`"))
    return findings


def text_read(prepared: Prepared) -> list[Finding]:
    """Another row's words beside the same pictures give another loss; a model that does not heed them is refused."""
    rows = [row for row in prepared.train.rows if row.get("pictures")]
    if prepared.backbone.needs not in ANSWERS or not rows:
        return []
    groups: dict[tuple[Any, ...], dict[tuple[int, ...], Features]] = {}
    for row in rows:  # of one length: how long a text is shows in any model
        group = groups.setdefault((len(row["pictures"]), len(row["input_ids"]), *_laid(prepared.backbone, row)), {})
        group.setdefault(tuple(row["input_ids"]), row)
    some = list(max(groups.values(), key=len).values())[:TRIED]
    if len(some) < 2:
        return []
    swapped = [row | {"input_ids": other["input_ids"]} for row, other in zip(some, [*some[1:], some[0]], strict=True)]
    first, second = (_loss(prepared, one, prepared.objective.collate(one)) for one in (some, swapped))
    why = "the model does not read them: it would learn from the pictures alone"
    return [_unheeded(prepared, some, first, "model.text-blind", "texts", why)] if first == second else []


def _laid(backbone: Any, row: Features) -> tuple[int, ...]:
    """How long its sequences are, and where its pictures stand."""
    places = (
        [at for at, token in enumerate(row["input_ids"]) if token == backbone.image_id]
        if (isinstance(backbone, Illustrated))
        else []
    )
    return *row.get("lengths", ()), *places


def _read_by(objective: Any) -> Any:
    """What reads rows to tell whether they are heeded: where the loss is a matter of ratios, which are 1 at first
    whatever is seen, what gives the likelihoods of answers."""
    return objective.reader if isinstance(objective, OnlineObjective | PreferenceObjective) else objective


def _unheeded(prepared: Prepared, rows: list[Features], loss: float, code: str, moved: str, why: str) -> Finding:
    source = prepared.train.examples[rows[0]["row"]].source
    what = f"the loss of {len(rows)} rows stays {loss:.4g} when their {moved} change places"
    return Finding(code, str(source), what, "choose another model, or another `model.fuse`", why)


def _loss(prepared: Prepared, rows: list[Features], batch: Batch) -> float:
    """Of a batch, or where there is none yet what a classifier will be fitted to. What is drawn is drawn alike."""
    backbone, objective = prepared.backbone, prepared.objective
    batch, precision = batch.to(backbone.device), str(prepared.resolved.recipe.precision)
    with (
        evaluating(backbone.model), backbone.looking(), torch.no_grad(), torch.random.fork_rng(),
        autocast(precision, backbone.device),
    ):  # fmt: skip
        torch.manual_seed(0)
        if (reader := _read_by(objective)) is not objective:
            told = zip(rows, reader.outputs(backbone, batch), strict=True)
            return float(sum(row["weight"] * logs.sum() for row, logs in told))
        if objective.couples:
            return float(objective.coupled_loss(objective.vectors(backbone, batch), rows).total)
        if backbone.needs == "hidden":
            hidden_TD = backbone.hidden(batch).float()
            return float(hidden_TD.flatten() @ torch.linspace(0, 1, hidden_TD.numel()).to(hidden_TD.device))
        return float(objective.loss(backbone, batch).total)


def pictures_converted(prepared: Prepared) -> list[Finding]:
    """How many pictures were stored otherwise than as 8-bit RGB, and what was done to them."""
    pictures = prepared.backbone.pictures
    if pictures is None or not pictures.converted:
        return []
    told = ", ".join(f"{count} {what}" for what, count in sorted(pictures.converted.items()))
    what = f"some pictures are not stored as upright 8-bit RGB: {told}"
    return [Finding("data.pictures-converted", "data.train", what, severity="note")]
