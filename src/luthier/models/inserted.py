"""Virtual tokens among the patches of a picture: visual prompt tuning, before the first block alone.

    [class, patches] → [class, patches, P] → blocks → without P

Jia et al. 2022 (arXiv 2203.12119), section 3.2, "shallow". The paper lays P between the class token and the patches;
blocks that attend to all places, and add no positions, do not know where it stands.

Axes: K pictures, L places, P virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from luthier.models.backbone import Backbone
from luthier.models.modes import evaluating
from luthier.types import Finding, Refused

STATES = "hidden_states"
UNFIT = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


def states_before_blocks(backbone: Backbone) -> Tensor:
    """(L, D): what the blocks are given of a grey picture. Raises Refused where that is no row of places."""
    seen: list[Tensor] = []
    hook = _first(backbone).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs[STATES]), with_kwargs=True
    )
    try:
        with evaluating(backbone.model), torch.no_grad():
            backbone.at_work()
    finally:
        hook.remove()
    if not seen or seen[0].dim() != 3:
        raise Refused(_no_places())
    return seen[0][0]


def insert(backbone: Backbone, prompt: Callable[[], Tensor]) -> None:
    """Have the blocks see ``prompt()`` (P, D) beside the patches, while it is the backbone's ``soft_prompt``. Raises
    Refused where they can't: windows, positions that are counted in the blocks."""
    first, last = _first(backbone), backbone.model.get_submodule(backbone.seams.blocks[-1])

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if backbone.soft_prompt is None:
            return None
        states_KLD = args[0] if args else kwargs[STATES]
        prompt_PD = backbone.soft_prompt().to(states_KLD.dtype)
        longer = torch.cat([states_KLD, prompt_PD.expand(len(states_KLD), -1, -1)], 1)
        return ((longer, *args[1:]), kwargs) if args else (args, kwargs | {STATES: longer})

    def after(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        if backbone.soft_prompt is None:
            return None
        count = len(backbone.soft_prompt())
        return (output[0][:, :-count], *output[1:]) if isinstance(output, tuple) else output[:, :-count]

    hooks = [first.register_forward_pre_hook(before, with_kwargs=True), last.register_forward_hook(after)]
    backbone.soft_prompt = prompt
    try:
        with evaluating(backbone.model), torch.no_grad():
            backbone.at_work()
    except UNFIT:
        backbone.soft_prompt = None
        for hook in hooks:
            hook.remove()
        raise Refused(_no_places()) from None


def _first(backbone: Backbone) -> Any:
    if not backbone.seams.blocks:
        raise Refused(_no_places())
    return backbone.model.get_submodule(backbone.seams.blocks[0])


def _no_places() -> Finding:
    what = "the blocks of this model do not attend to all places of a picture, so that no virtual ones can stand there"
    return Finding("method.no-target", "method", what, "use `lora`, or `adapter` where it has attention")
