"""What autograd keeps of a real forward pass."""

from __future__ import annotations

import torch

from luthier.engine.accumulate import loss_of
from luthier.engine.fit import choose, train_mode
from luthier.plan.memory import worst_groups
from luthier.plan.trace import LARGE
from luthier.runs.prepared import Prepared


def kept(prepared: Prepared) -> int:
    """Bytes of the storages that a real forward pass saves for its backward pass, parameters and buffers left out, and
    of the pictures or sounds of the batch."""
    model = prepared.backbone.model
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.is_floating_point():
            saved[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)
        return tensor

    choose(model, prepared.adaptation)
    train_mode(prepared.backbone, prepared.adaptation)
    (group,) = worst_groups(prepared, prepared.train.rows)
    rows = [prepared.train.rows[i] for i in group]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        terms, batch = loss_of(prepared.backbone, prepared.objective, rows, "fp32")
    for tensor in batch.tensors.values():
        if tensor.nbytes >= LARGE:
            pack(tensor)
    assert terms.total.requires_grad
    return sum(saved.values())
