"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with fp32 weights and state, in torch's fused kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def build(parameters: dict[str, nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Matrices decay; biases and norms (one axis or none) don't. The two groups partition ``parameters``."""
    decayed = [p for p in parameters.values() if p.ndim >= 2]
    plain = [p for p in parameters.values() if p.ndim < 2]
    assert len(decayed) + len(plain) == len(parameters)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


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
