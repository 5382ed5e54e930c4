"""A model some steps on: the same small changes by name, whatever the versions."""

from __future__ import annotations

from typing import Any

import torch


def on(model: Any) -> None:
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.03)
