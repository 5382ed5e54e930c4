"""Attention over packed rows: each sequence sees itself alone, and no pad token is computed.

Registered with transformers' ``AttentionInterface``, so any model that asks the interface for its attention can be
packed without a line of its code changed. The sequences of a packed row are told by ``cu_seq_lens_q``, the keyword
that transformers passes down for variable-length attention; ``begins`` (K,) beside it says which other sequence one
sees as well, as its beginning (``data/branches.py``). An attention module that carries a prefix (see
``models/prefixed.py``) has it put before the keys and values of every sequence.

Axes: T tokens of the packed row, H heads, G key/value heads, E width of a head, K sequences, L longest sequence,
P positions of the prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from luthier.models.prefixed import PREFIXED, prefix_of, prefixed_attention

PACKED = "luthier_packed"
PACKED_AS_ON_GPU = "luthier_packed_gpu"


def register() -> None:
    """Make our attentions known to transformers by their names. Safe to call again."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionInterface.register(PACKED_AS_ON_GPU, partial(packed_attention, fused=False))
    AttentionInterface.register(PREFIXED, prefixed_attention)
    AttentionMaskInterface.register(PREFIXED, sdpa_mask)


def packed_attention(
    module: nn.Module,
    query_1HTE: Tensor,
    key_1GTE: Tensor,
    value_1GTE: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    begins: Tensor | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    fused: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Block-diagonal attention. Returns (1, T, H, E), as the interface expects.

    ``fused``: one fused attention per sequence, or all in one padded launch; by default what suits the device.
    Raises NotImplementedError for what a packed row cannot express here; the model is then padded instead.
    """
    if cu_seq_lens_q is None or s_aux is not None or position_bias is not None:
        raise NotImplementedError("packed attention needs cu_seq_lens, and knows no attention sinks or position bias")
    causal = bool(module.is_causal) if is_causal is None else is_causal
    lengths = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    groups = query_1HTE.shape[1] // key_1GTE.shape[1]
    scale = query_1HTE.shape[-1] ** -0.5 if scaling is None else scaling

    def attend(query: Tensor, *keys_and_values: Tensor) -> Tensor:
        if groups > 1:
            keys_and_values = tuple(x.repeat_interleave(groups, 1) for x in keys_and_values)
        key, value, *prefix = keys_and_values
        if begins is not None:
            if not causal or softcap is not None:
                raise NotImplementedError("only causal attention without a cap on its scores shares a beginning")
            told = begins.tolist()
            return _branched(query, key, value, lengths, told, scale, sliding_window, dropout, prefix)
        one_by_one = query.device.type == "cpu" if fused is None else fused
        if softcap is not None or not one_by_one:
            return _padded(query, key, value, lengths, scale, causal, sliding_window, softcap, dropout, prefix)
        return _each(query, key, value, lengths, scale, causal, sliding_window, dropout, prefix)

    prefix_1GPE = [x[None].to(key_1GTE.dtype) for x in prefix_of(module) or ()]
    return _PlainMatmul.run(attend, query_1HTE, key_1GTE, value_1GTE, *prefix_1GPE), None


def _each(
    query_1HTE: Tensor, key_1HTE: Tensor, value_1HTE: Tensor, lengths: list[int],
    scale: float, causal: bool, window: int | None, dropout: float, prefix: Sequence[Tensor] = (),
) -> Tensor:  # fmt: skip
    """One fused attention per sequence: no mask is built, nothing is padded. The faster way on a CPU.

    ``prefix`` is nothing, or keys and values (1, H, P, E) that every sequence sees; a causal one then needs a mask.
    """
    parts = []
    for query, key, value in zip(*(x.split(lengths, dim=2) for x in (query_1HTE, key_1HTE, value_1HTE)), strict=True):
        length = query.shape[2]
        banded = (window is not None and length > window) or (causal and bool(prefix))
        mask = _band(length, window, causal, query.device) if banded else None
        if prefix:
            key, value = torch.cat([prefix[0], key], dim=2), torch.cat([prefix[1], value], dim=2)
            mask = None if mask is None else F.pad(mask, (prefix[0].shape[2], 0), value=True)
        plain_causal = causal and mask is None
        parts.append(F.scaled_dot_product_attention(query, key, value, mask, dropout, plain_causal, scale=scale))
    return torch.cat(parts, dim=2).transpose(1, 2)


def _branched(
    query_1HTE: Tensor, key_1HTE: Tensor, value_1HTE: Tensor, lengths: list[int], begins: list[int],
    scale: float, window: int | None, dropout: float, prefix: Sequence[Tensor] = (),
) -> Tensor:  # fmt: skip
    """One fused causal attention per sequence, whose keys and values follow those of its beginning, if it has one."""
    split = [x.split(lengths, dim=2) for x in (query_1HTE, key_1HTE, value_1HTE)]
    parts = []
    for query, key, value, beginning in zip(*split, begins, strict=True):
        if beginning >= 0:
            key, value = (torch.cat([x[beginning], own], dim=2) for x, own in zip(split[1:], (key, value), strict=True))
        length, own = key.shape[2], query.shape[2]
        plain = beginning < 0 and not prefix and (window is None or length <= window)
        mask = None if plain else _band(length, window, True, query.device)[length - own :]
        if prefix:
            key, value = torch.cat([prefix[0], key], dim=2), torch.cat([prefix[1], value], dim=2)
            mask = None if mask is None else F.pad(mask, (prefix[0].shape[2], 0), value=True)
        parts.append(F.scaled_dot_product_attention(query, key, value, mask, dropout, plain, scale=scale))
    return torch.cat(parts, dim=2).transpose(1, 2)


def _padded(
    query_1HTE: Tensor, key_1HTE: Tensor, value_1HTE: Tensor, lengths: list[int],
    scale: float, causal: bool, window: int | None, softcap: float | None, dropout: float,
    prefix: Sequence[Tensor] = (),
) -> Tensor:  # fmt: skip
    """Pad inside the attention only (the linear layers around it never see a pad token): one launch for all rows."""
    device, longest = query_1HTE.device, max(lengths)
    lengths_K = torch.tensor(lengths, device=device)
    real_KL = torch.arange(longest, device=device) < lengths_K[:, None]
    slots_T = real_KL.flatten().nonzero().squeeze(1)

    def spread(x_1HTE: Tensor) -> Tensor:
        x_THE = x_1HTE[0].transpose(0, 1)
        out = x_THE.new_zeros(len(lengths) * longest, *x_THE.shape[1:]).index_copy(0, slots_T, x_THE)
        return out.view(len(lengths), longest, *x_THE.shape[1:]).transpose(1, 2)

    query_KHLE, key_KHLE, value_KHLE = spread(query_1HTE), spread(key_1HTE), spread(value_1HTE)
    if prefix:
        key_KHLE = torch.cat([prefix[0].expand(len(lengths), -1, -1, -1), key_KHLE], dim=2)
        value_KHLE = torch.cat([prefix[1].expand(len(lengths), -1, -1, -1), value_KHLE], dim=2)
    scores_KHLL = torch.matmul(query_KHLE * scale, key_KHLE.transpose(2, 3))
    if softcap is not None:
        scores_KHLL = softcap * torch.tanh(scores_KHLL / softcap)
    hidden_K1LL = ~real_KL[:, None, None, :]
    if causal or (window is not None and longest > window):
        hidden_K1LL = hidden_K1LL | ~_band(longest, window, causal, device)
    if prefix:
        hidden_K1LL = F.pad(hidden_K1LL, (prefix[0].shape[2], 0), value=False)
    scores_KHLL = scores_KHLL.masked_fill(hidden_K1LL, torch.finfo(scores_KHLL.dtype).min)
    weights_KHLL = F.softmax(scores_KHLL, dim=-1, dtype=torch.float32).to(value_KHLE.dtype)
    out_KHLE = torch.matmul(F.dropout(weights_KHLL, dropout) if dropout else weights_KHLL, value_KHLE)
    return out_KHLE.transpose(1, 2).flatten(0, 1).index_select(0, slots_T)[None]


def _band(length: int, window: int | None, causal: bool, device: torch.device) -> Tensor:
    """(L, L), True where position i may look at j: j <= i if causal, |i - j| < window if there is one."""
    distance_LL = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    seen_LL = distance_LL >= 0 if causal else torch.ones_like(distance_LL, dtype=torch.bool)
    return seen_LL if window is None else seen_LL & (distance_LL.abs() < window)


class _PlainMatmul(torch.autograd.Function):
    """Runs attention, forward and backward, with torch's own fp32 matmul whatever the setting around it.

    The oneDNN route that speeds up large linear layers makes the many small matmuls inside CPU attention three times
    slower, and the backward pass would otherwise run under the setting in force at that time.
    """

    @staticmethod
    def run(attend: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if torch.get_float32_matmul_precision() == "highest":
            return attend(*inputs)
        if not torch.is_grad_enabled():
            with plain_matmul():
                return attend(*inputs)
        return _PlainMatmul.apply(attend, *inputs)

    @staticmethod
    def forward(ctx: Any, attend: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        with torch.enable_grad(), plain_matmul():
            ctx.inner = [x.detach().requires_grad_(x.requires_grad) for x in inputs]
            ctx.out = attend(*ctx.inner)
        return ctx.out.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [x for x in ctx.inner if x.requires_grad]
        with plain_matmul():
            found = iter(torch.autograd.grad(ctx.out, wanted, grads[0]))
        return (None, *(next(found) if x.requires_grad else None for x in ctx.inner))


@contextmanager
def plain_matmul() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
