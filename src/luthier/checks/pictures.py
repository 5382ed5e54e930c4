"""What a model makes of pictures, and what was made of them before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from luthier.engine.precision import autocast
from luthier.models.illustrated import Illustrated
from luthier.models.modes import evaluating
from luthier.objectives.online import OnlineObjective
from luthier.types import Finding

if TYPE_CHECKING:
    from luthier.runs.prepared import Prepared

TRIED = 8


def pictures_seen(prepared: Prepared) -> list[Finding]:
    """Other pictures in the same rows give another loss; a model that does not look at them is refused."""
    rows = [row for row in prepared.train.rows if row.get("pictures")][:TRIED]
    if len({key for row in rows for key in row["pictures"]}) < 2:
        return []
    backbone, objective = prepared.backbone, prepared.objective
    batch = objective.collate(rows).to(backbone.device)
    precision, losses = str(prepared.resolved.recipe.precision), []
    with evaluating(backbone.model), backbone.looking(), torch.no_grad(), autocast(precision, backbone.device):
        for pixels in (batch["pixel_values"], batch["pixel_values"].roll(1, dims=0)):
            batch.tensors["pixel_values"] = pixels
            if isinstance(objective, OnlineObjective):  # at ratio 1 its loss is the same whatever it sees
                losses.append(float(sum(logs.sum() for logs in objective.reader.outputs(backbone, batch))))
            elif objective.couples:
                losses.append(float(objective.coupled_loss(objective.vectors(backbone, batch), rows).total))
            elif backbone.needs == "hidden":  # a classifier will be fitted to these
                hidden_TD = backbone.hidden(batch).float()
                losses.append(float(hidden_TD.flatten() @ torch.linspace(0, 1, hidden_TD.numel()).to(hidden_TD.device)))
            else:
                losses.append(float(objective.loss(backbone, batch).total))
    if losses[0] != losses[1]:
        return []
    source = prepared.train.examples[rows[0]["row"]].source
    what = f"the loss of {len(rows)} rows stays {losses[0]:.4g} when their pictures change places"
    why = "the model does not look at them: it would learn from the text alone"
    return [Finding("model.image-blind", str(source), what, "choose another model, or another `model.fuse`", why)]


def places_kept(prepared: Prepared) -> list[Finding]:
    """Each picture has all the tokens that the model makes of it in its row, and none of them is learned."""
    backbone = prepared.backbone
    if not isinstance(backbone, Illustrated):
        return []
    findings = []
    for row in prepared.train.rows:
        wanted = sum(backbone.places(key).count(backbone.image_id) for key in row.get("pictures", ()))
        at = [place for place, token in enumerate(row["input_ids"]) if token == backbone.image_id]
        learned = "supervised" in row and any(row["supervised"][place] for place in at)
        if learned or len(at) != wanted:
            source = prepared.train.examples[row["row"]].source
            what = f"{len(at)} places of pictures stand in this row, where its pictures make {wanted}"
            what = "a place of a picture would be learned as if it were written" if learned else what
            findings.append(Finding("data.picture-places", str(source), what, "raise `max_length`"))
    return findings


def pictures_converted(prepared: Prepared) -> list[Finding]:
    """How many pictures were stored otherwise than as 8-bit RGB, and what was done to them."""
    pictures = prepared.backbone.pictures
    if pictures is None or not pictures.converted:
        return []
    told = ", ".join(f"{count} {what}" for what, count in sorted(pictures.converted.items()))
    what = f"some pictures are not stored as upright 8-bit RGB: {told}"
    return [Finding("data.pictures-converted", "data.train", what, severity="note")]
