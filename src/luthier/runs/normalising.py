"""Which statistics batch normalisation takes in training: each batch's own, or those of the checkpoint.

With a batch's own the gradient of a row depends on the rows beside it, so that no step may be cut: into micro-batches,
over processes, or by a second forward. Where one would be, the checkpoint's are kept, as they are with every method but
``full``.
"""

from __future__ import annotations

import torch.distributed as dist

from luthier.engine.accumulate import size
from luthier.engine.batching import micro_batches
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


def _cut(prepared: Prepared) -> str:
    """Why a step is not computed in one go ("" where it is)."""
    backbone, recipe = prepared.backbone, prepared.resolved.recipe
    if not backbone.dropout:
        return "two likelihoods of one row are compared, and each would be of another network"
    if backbone.sounds is not None:
        return "pads after shorter sounds would count in them"
    if recipe.gradient_checkpointing:
        return "`gradient_checkpointing` computes a batch twice, and they would move twice"
    if dist.is_initialized() and dist.get_world_size() > 1:
        return f"a batch is shared out to {dist.get_world_size()} processes"
    longest = sorted(size(row) for row in prepared.train.rows)[-int(recipe.batch_size or 0) :]
    most = int(recipe.micro_tokens or 0)
    if len(micro_batches(longest, most, padded=backbone.layout == "padded")) > 1:
        return f"{len(longest)} rows (`batch_size`) can be more than {most} tokens (`micro_tokens`), and would be cut"
    return ""
