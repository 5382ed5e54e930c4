"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with fp32 weights and state, in torch's fused kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn


def build(
    parameters: dict[str, nn.Parameter],
    learning_rate: float,
    weight_decay: float,
    rates: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """Matrices decay; biases and norms (one axis or none) don't. ``rates``: of those that have one of their own.

    The groups, one for each rate and decay, partition ``parameters``; ``peak`` is the highest rate of each.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in parameters.items():
        key = (rates or {}).get(name, learning_rate), weight_decay if p.ndim >= 2 else 0.0
        groups.setdefault(key, []).append(p)
    told = [{"params": some, "lr": rate, "peak": rate, "weight_decay": decay} for (rate, decay), some in groups.items()]
    return torch.optim.AdamW(told, lr=learning_rate, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, at: Callable[[float], float]) -> None:
    """Each group's rate: ``at`` of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = at(group["peak"])


def state_tensors(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: ``<parameter>|exp_avg``, ``|exp_avg_sq``, ``|step``."""
    return {
        f"{name}|{key}": value for name, p in parameters.items() for key, value in optimizer.state.get(p, {}).items()
    }


def load_state_tensors(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor]
) -> None:
    for name, parameter in parameters.items():
        state = {key.rpartition("|")[2]: tensors[key] for key in tensors if key.rpartition("|")[0] == name}
        if state:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }


def mean_and_clip(
    parameters: Iterable[nn.Parameter], count: float, penalty: Callable[[], Tensor] | None, most: float
) -> float:
    """Gradients of a sum become those of the mean over ``count``, with the penalty's, no longer together than ``most``.

    Returns the length that they had. All are gone over once, unless there is a penalty to be added in between.
    """
    trained, count = list(parameters), max(count, 1e-12)
    if penalty is not None:
        for parameter in trained:
            if parameter.grad is not None:
                parameter.grad.div_(count)
        penalty().backward()
        count = 1.0
    grads = [p.grad for p in trained if p.grad is not None]
    if not grads:
        return 0.0
    length = torch.nn.utils.get_total_norm(grads) / count
    torch._foreach_mul_(grads, torch.clamp(most / (length + 1e-6), max=1.0) / count)
    return float(length)
