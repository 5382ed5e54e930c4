"""Which statistics batch normalisation takes in training: each batch's own, or those of the checkpoint.

With a batch's own the gradient of a row depends on the rows beside it, so that no step may be cut into micro-batches,
nor run twice. Where one would be, the checkpoint's are kept, as they are with every method but ``full``. Several
processes share out a step, and its statistics are those of all its rows (``models/across.py``).
"""

from __future__ import annotations

import math

import torch.distributed as dist

from luthier.engine.accumulate import size
from luthier.engine.batching import micro_batches
from luthier.models.across import join
from luthier.models.modes import keep_alone, statistics
from luthier.runs.prepared import Prepared
from luthier.types import Finding


def choose_statistics(prepared: Prepared) -> list[Finding]:
    """Settle ``batch_norm``: leaves in ``Adaptation.batch_norms`` the layers that take each batch's own statistics.

    Their running ones move, so that they are in every checkpoint.
    """
    adaptation, resolved = prepared.adaptation, prepared.resolved
    wanted, layers = resolved.recipe.batch_norm, adaptation.batch_norms
    if not layers:
        if wanted != "batch":
            return []
        what = "nothing here would take a batch's statistics: no layer of batch normalisation trains by `full`"
        return [Finding("recipe.combination", "batch_norm", what, "use `method: full`, or leave it out")]
    why = _cut(prepared) if wanted != "frozen" else ""
    if wanted == "frozen" or why:
        adaptation.batch_norms = {}
    else:
        adaptation.state |= statistics(layers)
        if _world() > 1:
            join(layers.values())
        else:
            for layer in layers.values():
                layer.register_forward_pre_hook(keep_alone)
    if wanted == "auto":
        resolved.set("batch_norm", "frozen" if why else "batch", "method")
    if not why:
        return []
    mend = "mend that, or set `batch_norm: frozen`"
    if wanted == "batch":
        what = f"batch normalisation can't take each batch's own statistics: {why}"
        return [Finding("method.batch-norm", "batch_norm", what, mend)]
    what = f"batch normalisation keeps the statistics of the checkpoint, with which `full` learns less well: {why}"
    return [Finding("method.batch-norm", "batch_norm", what, mend, severity="warning")]


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _cut(prepared: Prepared) -> str:
    """Why a step is not computed in one go, each process its share ("" where it is)."""
    backbone, recipe, world = prepared.backbone, prepared.resolved.recipe, _world()
    if not backbone.dropout:
        return "two likelihoods of one row are compared, and each would be of another network"
    if backbone.sounds is not None:
        return "pads after shorter sounds would count in them"
    if recipe.gradient_checkpointing:
        return "`gradient_checkpointing` computes a batch twice, and they would move twice"
    if world > 1 and prepared.objective.couples:
        return f"what couples the rows of a batch reads them twice over {world} processes, and they would move twice"
    if world > 1 and not all(row.get("pictures") for row in prepared.train.rows):
        return f"some rows have no picture, and one of {world} processes could have none in a step"
    share = math.ceil(int(recipe.batch_size or 0) / world)
    longest, most = sorted(size(row) for row in prepared.train.rows)[-share:], int(recipe.micro_tokens or 0)
    if len(micro_batches(longest, most, padded=backbone.layout == "padded")) > 1:
        told = "`batch_size`" if world == 1 else f"of `batch_size`, for each of {world} processes"
        return f"{len(longest)} rows ({told}) can be more than {most} tokens (`micro_tokens`), and would be cut"
    return ""
