"""Attention with a prefix: trained keys and values that every query sees, put before those of the tokens.

An attention module carries its prefix itself; the function that transformers' ``AttentionInterface`` calls for it looks
there. So no model is rewritten, and the KV cache, which holds what the tokens made, never holds the prefix. Causal
masks, sliding windows and position biases count tokens alone: the prefix is always visible, with no bias.

Axes: B rows, Q queries, T keys, H heads, G key/value heads, E width of a head, P positions of the prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

PREFIXED = "luthier_prefixed"
ATTRIBUTE = "luthier_prefix"

KeysAndValues = tuple[Tensor, Tensor]


@dataclass
class Switch:
    """One for all the modules of a model: off, they attend as they came."""

    on: bool = True


@dataclass(frozen=True)
class Heard:
    """One attention module, as heard at work: its key/value heads and widths, what it saw, and if through a window."""

    module: nn.Module
    heads: int
    key_width: int
    value_width: int
    queries: int
    keys: int
    windowed: bool


_LISTENERS: list[list[Heard]] = []


@contextmanager
def listening() -> Iterator[list[Heard]]:
    """The attention modules that ask transformers' interface meanwhile (under ``PREFIXED``), in order, each once."""
    heard: list[Heard] = []
    _LISTENERS.append(heard)
    try:
        yield heard
    finally:
        _LISTENERS.remove(heard)


def carry(module: nn.Module, switch: Switch, prefix: Callable[[], KeysAndValues]) -> None:
    """Have ``module`` attend to ``prefix()`` as well: keys (G, P, E) and values (G, P, E), while ``switch`` is on."""
    setattr(module, ATTRIBUTE, (switch, prefix))


def prefix_of(module: nn.Module) -> KeysAndValues | None:
    carried: tuple[Switch, Callable[[], KeysAndValues]] | None = getattr(module, ATTRIBUTE, None)
    return carried[1]() if carried is not None and carried[0].on else None


def prefixed_attention(
    module: nn.Module,
    query_BHQE: Tensor,
    key_BGTE: Tensor,
    value_BGTE: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Transformers' ``sdpa`` with the module's prefix in front. Returns (B, Q, H, E), as the interface expects.

    The mask is ``sdpa``'s: None where nothing but the future is hidden, else boolean or added to the scores.
    Raises NotImplementedError for attention sinks.
    """
    if s_aux is not None:
        raise NotImplementedError("a prefix is not known to attention sinks")
    for heard in _LISTENERS:
        if all(one.module is not module for one in heard):
            heads, keys, width = key_BGTE.shape[1:]
            windowed = rest.get("sliding_window") is not None
            heard.append(Heard(module, heads, width, value_BGTE.shape[3], query_BHQE.shape[2], keys, windowed))
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    if (prefix := prefix_of(module)) is not None:
        if attention_mask is None and causal and query_BHQE.shape[2] > 1:
            attention_mask = _causal(query_BHQE.shape[2], key_BGTE.shape[2], query_BHQE.device)
        key_BGTE, value_BGTE = (
            torch.cat([x_GPE.to(x.dtype).expand(len(x), -1, -1, -1), x], dim=2)
            for x_GPE, x in zip(prefix, (key_BGTE, value_BGTE), strict=True)
        )
        length = prefix[0].shape[1]
        if attention_mask is not None:
            visible = True if attention_mask.dtype == torch.bool else 0.0
            attention_mask = F.pad(attention_mask, (length, 0), value=visible)
        if position_bias is not None:
            position_bias = F.pad(position_bias, (length, 0))
        causal = False
    if softcap is not None:
        return _softcapped(query_BHQE, key_BGTE, value_BGTE, attention_mask, scaling, dropout, softcap, causal), None
    return sdpa_attention_forward(
        module, query_BHQE, key_BGTE, value_BGTE, attention_mask, dropout=dropout, scaling=scaling, is_causal=causal,
        position_bias=position_bias, **rest,
    )  # fmt: skip


def _causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """(1, 1, Q, T), True where query i may look: at key j <= i. With no mask, transformers has as many keys."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()[None, None]


def _softcapped(
    query_BHQE: Tensor, key_BGTE: Tensor, value_BGTE: Tensor, mask: Tensor | None,
    scaling: float | None, dropout: float, softcap: float, causal: bool,
) -> Tensor:  # fmt: skip
    """softcap · tanh(scores / softcap), which no fused attention offers: as transformers' ``eager`` does it."""
    groups = query_BHQE.shape[1] // key_BGTE.shape[1]
    key_BHTE, value_BHTE = key_BGTE.repeat_interleave(groups, 1), value_BGTE.repeat_interleave(groups, 1)
    scale = query_BHQE.shape[-1] ** -0.5 if scaling is None else scaling
    scores_BHQT = softcap * torch.tanh(query_BHQE @ key_BHTE.transpose(2, 3) * scale / softcap)
    if mask is None and causal and query_BHQE.shape[2] > 1:
        mask = _causal(query_BHQE.shape[2], key_BGTE.shape[2], query_BHQE.device)
    if mask is not None and mask.dtype == torch.bool:
        scores_BHQT = scores_BHQT.masked_fill(~mask, torch.finfo(scores_BHQT.dtype).min)
    elif mask is not None:
        scores_BHQT = scores_BHQT + mask
    weights_BHQT = F.softmax(scores_BHQT, dim=-1, dtype=torch.float32).to(query_BHQE.dtype)
    return (F.dropout(weights_BHQT, dropout) @ value_BHTE).transpose(1, 2).contiguous()
