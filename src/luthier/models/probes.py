"""What is asked of a model by running it on a few ids, since no name or config tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from luthier.models.modes import evaluating
from luthier.types import Batch

if TYPE_CHECKING:
    from luthier.models.backbone import Backbone


def row_of(backbone: Backbone, ids: list[int]) -> Batch:
    """A batch of one row of ids: the target's, after a short source, where the model writes from one."""
    ids_1T = torch.tensor([ids], device=backbone.device)
    if backbone.encoder_decoder and backbone.needs == "token_logits":
        source_11 = torch.tensor([[5]], device=backbone.device)
        return Batch({"input_ids": source_11, "attention_mask": torch.ones_like(source_11), "target_ids": ids_1T}, [0])
    return Batch({"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}, [0])


def closing_norms(backbone: Backbone) -> dict[str, str]:
    """Block → the norm whose output is the block's own, where it ends in one (post-norm, as BERT).

    Asked of the trunk itself: the tensor that leaves the block is the one that left the norm.
    """
    left: dict[str, Any] = {}
    inside = tuple(f"{block}." for block in backbone.seams.blocks)
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: left.update({name: output}))
        for name, module in backbone.model.named_modules()
        if name in backbone.seams.blocks or (name.startswith(inside) and "norm" in type(module).__name__.lower())
    ]
    with evaluating(backbone.model), backbone.attention("sdpa"), torch.no_grad():
        backbone.at_work()
    for hook in hooks:
        hook.remove()
    tensors = {name: output[0] if isinstance(output, tuple) else output for name, output in left.items()}
    return {
        block: name
        for block in backbone.seams.blocks
        for name, tensor in tensors.items()
        if name.startswith(f"{block}.") and tensor is tensors.get(block)
    }


def head_problem(backbone: Backbone) -> str:
    """Why the head can't be applied to hidden states alone ("" where it can): it asks the trunk for more."""
    try:
        with evaluating(backbone.model), backbone.attention("sdpa"), torch.no_grad():
            backbone.token_logits(backbone.hidden(backbone.probe([5, 6, 7])))
    except (AttributeError, TypeError, IndexError) as error:
        return str(error).split("\n")[0]
    return ""
