"""Batch normalisation with the statistics of a whole step's rows, of which each process has some.

    n = Σ_w n_w;  μ = Σ_w n_w μ_w / n;  σ² = Σ_w (M_w + n_w (μ_w - μ)²) / n

from each process's count n_w, means μ_w and sums of squares about them M_w (Chan, Golub and LeVeque 1983). They are
gathered with their gradient: what a row does to the loss of another process's rows comes back to it. torch's own
SyncBatchNorm does the same, on GPUs alone.

All processes have to come by, once a layer: one without rows runs a row that counts for nothing (``counted(False)``).

Axes: W processes, N rows, C channels, of N · places numbers each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

_COUNTED: list[bool] = [True]


@contextmanager
def counted(rows: bool) -> Iterator[None]:
    """Whether what runs inside are rows of the step."""
    _COUNTED.append(rows)
    try:
        yield
    finally:
        _COUNTED.pop()


def join(layers: Iterable[nn.Module]) -> None:
    """In training these take the statistics of all processes' rows, and move their running ones towards them, to the
    same bits on each."""
    for layer in layers:
        layer.forward = partial(_normalised, layer)


class _Gathered(torch.autograd.Function):
    """(S,) of each process → (W, S) on all."""

    @staticmethod
    def forward(ctx: Any, own_S: Tensor) -> Tensor:
        found_WS = own_S.new_zeros(dist.get_world_size(), len(own_S))
        found_WS[dist.get_rank()] = own_S
        dist.all_reduce(found_WS)
        return found_WS

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad_WS = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad_WS)
        return grad_WS[dist.get_rank()]


def _normalised(layer: Any, x: Tensor) -> Tensor:
    """(N, C, ...) → the same, with the layer's weight and bias. One number a channel in all has no variance: it is
    normalised with the statistics that there are, as it is in evaluation."""
    given = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    if not layer.training:
        return F.batch_norm(x, *given, False, 0.0, layer.eps)
    x_CR = x.float().transpose(0, 1).flatten(1)
    mean_C = x_CR.mean(1)
    spread_C = (x_CR - mean_C[:, None]).square().sum(1)
    count_1 = x_CR.new_full((1,), float(x_CR.shape[1]))
    found_WS = _Gathered.apply(torch.cat([count_1, mean_C, spread_C]) * float(_COUNTED[-1]))
    count_W1, mean_WC, spread_WC = found_WS.split([1, len(mean_C), len(mean_C)], 1)
    count = count_W1.sum()
    if count <= 1:
        return F.batch_norm(x, *given, False, 0.0, layer.eps)
    mean_C = (count_W1 * mean_WC).sum(0) / count
    spread_C = (spread_WC + count_W1 * (mean_WC - mean_C).square()).sum(0)
    _move(layer, mean_C.detach(), spread_C.detach() / (count.detach() - 1))
    scale_C = (spread_C / count + layer.eps).rsqrt()
    shape = (1, -1, *[1] * (x.dim() - 2))
    made = (x.float() - mean_C.view(shape)) * scale_C.view(shape)
    return (made if layer.weight is None else made * layer.weight.view(shape) + layer.bias.view(shape)).to(x.dtype)


@torch.no_grad()
def _move(layer: Any, mean_C: Tensor, variance_C: Tensor) -> None:
    """The running statistics, as torch moves them: towards the mean and the unbiased variance."""
    layer.num_batches_tracked.add_(1)
    share = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean_C, share)
    layer.running_var.lerp_(variance_C, share)
