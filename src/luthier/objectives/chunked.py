"""A loss over a large vocabulary without holding all logits: cross-entropy, or what else is read of them.

Logits are made a chunk of positions at a time, and the gradient of each chunk is taken at once (as in Cut
Cross-Entropy, arXiv 2411.09009, and Liger, arXiv 2410.10989), so that memory is one chunk and nothing is computed
twice. The result is the plain loss, summed.

Axes: N positions, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Logits held at a time, in numbers; 2**24 in fp32 are 64 MB.
CHUNK = 2**24


def cross_entropy_sum(
    head: Callable[[Tensor], Tensor],
    parameters: list[nn.Parameter],
    hidden_ND: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    vocabulary: int,
) -> Tensor:
    """Σ_n w_n · -log softmax(head(h_n))[y_n], a scalar.

    ``head`` maps (n, D) to (n, V) and is differentiated with respect to ``parameters`` (those of it that train).
    With no positions the sum is 0 and its gradients are 0.
    """

    def loss(hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return (F.cross_entropy(head(hidden).float(), targets, reduction="none") * weights).sum()

    return sum_over_chunks(loss, parameters, hidden_ND, (targets_N, weights_N), vocabulary)


def sum_over_chunks(
    loss: Callable[..., Tensor],
    parameters: list[nn.Parameter],
    hidden_ND: Tensor,
    beside: Sequence[Tensor],
    width: int,
) -> Tensor:
    """Σ of ``loss(hidden_nD, *beside)`` over chunks of positions, a scalar; each chunk is computed once.

    ``beside`` are tensors of N rows, cut as the positions are; ``width`` is how many logits one position has.
    """
    size = max(16, CHUNK // width)
    chunks = list(zip(*(tensor.split(size) for tensor in (hidden_ND, *beside)), strict=True))
    if len(chunks) <= 1 or not torch.is_grad_enabled():
        parts = [loss(*chunk) for chunk in chunks if len(chunk[0])]
        return torch.stack(parts).sum() if parts else hidden_ND.sum() * 0
    return _Chunked.apply(loss, chunks, hidden_ND, *parameters)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Any, chunks: Any, hidden_ND: Tensor, *parameters: Tensor) -> Tensor:
        total = hidden_ND.new_zeros((), dtype=torch.float32)
        grads_h, grads_p = [], [torch.zeros_like(p) for p in parameters]
        for hidden, *beside in chunks:
            leaf = hidden.detach().requires_grad_()
            with torch.enable_grad():
                part = loss(leaf, *beside)
            grad_h, *grad_p = torch.autograd.grad(part, [leaf, *parameters], allow_unused=True)
            grads_h.append(grad_h)
            for kept, grad in zip(grads_p, grad_p, strict=True):
                if grad is not None:
                    kept += grad
            total += part.detach()
        ctx.grads = (torch.cat(grads_h), *grads_p)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(grad * upstream[0].to(grad.dtype) for grad in ctx.grads))
