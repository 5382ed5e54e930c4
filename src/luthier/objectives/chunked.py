"""Cross-entropy over a large vocabulary without holding all logits.

Logits are made a chunk of positions at a time, and the gradient of each chunk is taken at once (as in Cut
Cross-Entropy, arXiv 2411.09009, and Liger, arXiv 2410.10989), so that memory is one chunk and nothing is computed
twice. The result is the plain cross-entropy, summed.

Axes: N positions, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
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
    size = max(16, CHUNK // vocabulary)
    chunks = list(zip(hidden_ND.split(size), targets_N.split(size), weights_N.split(size), strict=True))
    if len(chunks) <= 1 or not torch.is_grad_enabled():
        parts = [_loss(head, *chunk) for chunk in chunks if len(chunk[0])]
        return torch.stack(parts).sum() if parts else hidden_ND.sum() * 0
    return _Chunked.apply(head, chunks, hidden_ND, *parameters)


def _loss(head: Callable[[Tensor], Tensor], hidden_ND: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    return (F.cross_entropy(head(hidden_ND).float(), targets_N, reduction="none") * weights_N).sum()


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, head: Any, chunks: Any, hidden_ND: Tensor, *parameters: Tensor) -> Tensor:
        total = hidden_ND.new_zeros((), dtype=torch.float32)
        grads_h, grads_p = [], [torch.zeros_like(p) for p in parameters]
        for hidden, targets, weights in chunks:
            leaf = hidden.detach().requires_grad_()
            with torch.enable_grad():
                loss = _loss(head, leaf, targets, weights)
            grad_h, *grad_p = torch.autograd.grad(loss, [leaf, *parameters], allow_unused=True)
            grads_h.append(grad_h)
            for kept, grad in zip(grads_p, grad_p, strict=True):
                if grad is not None:
                    kept += grad
            total += loss.detach()
        ctx.grads = (torch.cat(grads_h), *grads_p)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(grad * upstream[0].to(grad.dtype) for grad in ctx.grads))
