"""Virtual tokens among those that a tower's blocks are given, and taken out again after the last block.

    [first, rest] → [first, P, rest] → blocks → [first, rest]

Of pictures that is visual prompt tuning, shallow (Jia et al. 2022, arXiv 2203.12119, section 3.2); of the texts that
CLIP compares with them, context optimisation (CoOp: Zhou et al. 2021, arXiv 2109.01134, section 3.2), with one context
for all classes. Departure: tokens keep their own positions, and virtual ones have none, so that no text loses room.

Axes: K rows, L places, P virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from luthier.models.backbone import Backbone
from luthier.models.modes import evaluating
from luthier.types import Finding, Refused

STATES, MASK = "hidden_states", "attention_mask"
UNFIT = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


def states_before_blocks(backbone: Backbone) -> Tensor:
    """(L, D): what the blocks are given, of a grey picture or a few words. Raises Refused where it is no row of
    places."""
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
    """Have the blocks that are shown see ``prompt()`` (P, D), while it is the backbone's ``tower_prompt``. Raises
    Refused where they can't: windows, positions that are counted in the blocks."""
    first, last = _first(backbone), backbone.model.get_submodule(backbone.seams.blocks[-1])
    blocks = [backbone.model.get_submodule(name) for name in backbone.seams.blocks]

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if backbone.tower_prompt is None:
            return None
        prompt_PD = backbone.tower_prompt()
        given = dict(zip((STATES, MASK), args, strict=False)) | kwargs
        if module is first:
            states_KLD = given[STATES]
            virtual_KPD = prompt_PD.to(states_KLD.dtype).expand(len(states_KLD), -1, -1)
            given[STATES] = torch.cat([states_KLD[:, :1], virtual_KPD, states_KLD[:, 1:]], 1)
        if given.get(MASK) is not None:
            causal = bool(kwargs.get("is_causal")) or any(vars(one).get("is_causal") for one in module.modules())
            given[MASK] = longer_mask(given[MASK], len(prompt_PD), causal=causal)
        changed = tuple(given.pop(name) for name, _ in zip((STATES, MASK), args, strict=False))
        return (*changed, *args[2:]), given

    def after(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        if backbone.tower_prompt is None:
            return None
        states = output[0] if isinstance(output, tuple) else output
        states = torch.cat([states[:, :1], states[:, 1 + len(backbone.tower_prompt()) :]], 1)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    hooks.append(last.register_forward_hook(after))
    backbone.tower_prompt = prompt
    try:
        with evaluating(backbone.model), torch.no_grad():
            backbone.at_work()
    except UNFIT:
        backbone.tower_prompt = None
        for hook in hooks:
            hook.remove()
        raise Refused(_no_places()) from None


def longer_mask(mask_KhLL: Tensor, count: int, *, causal: bool) -> Tensor:
    """(K, 1, L, L), boolean or added to scores → (K, 1, L + P, L + P). All that may look back see the virtual tokens;
    these see what the first token sees, and each other, or, where the mask is causal, those before."""
    seen, unseen = (True, False) if mask_KhLL.dtype == torch.bool else (0.0, torch.finfo(mask_KhLL.dtype).min)
    rows, heads, length = mask_KhLL.shape[:3]
    beside = mask_KhLL.new_full((rows, heads, length, count), seen)
    if causal:
        beside[..., 0, :] = unseen
    wide = torch.cat([mask_KhLL[..., :1], beside, mask_KhLL[..., 1:]], -1)
    virtual = wide[..., :1, :].expand(-1, -1, count, -1).clone()
    if causal:
        at = torch.ones(count, count, dtype=torch.bool, device=mask_KhLL.device).tril()
        virtual[..., 1 : 1 + count].masked_fill_(at, seen)
    return torch.cat([wide[..., :1, :], virtual, wide[..., 1:, :]], -2)


def _first(backbone: Backbone) -> Any:
    if not backbone.seams.blocks:
        raise Refused(_no_places())
    return backbone.model.get_submodule(backbone.seams.blocks[0])


def _no_places() -> Finding:
    what = "the blocks here do not attend to all places, so that no virtual ones can stand among them"
    return Finding("method.no-target", "method", what, "use `lora`, or `adapter` where it has attention")
