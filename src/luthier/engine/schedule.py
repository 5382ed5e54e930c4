"""The learning rate: a pure function of the optimizer step, so no resume or process count can shift it."""

from __future__ import annotations

import math


def learning_rate(peak: float, schedule: str, step: int, total: int, warmup: int) -> float:
    """The rate of ``step`` (from 0) of ``total``. Rises linearly over ``warmup`` steps, then

    linear    peak · (total - step) / (total - warmup)
    cosine    peak · (1 + cos(π (step - warmup) / (total - warmup))) / 2      (Loshchilov & Hutter 2017, eq. 5)
    constant  peak
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, total - warmup)
    return peak * (1 - progress) if schedule == "linear" else peak * (1 + math.cos(math.pi * progress)) / 2


def warmup_steps(warmup: float, total: int) -> int:
    """A share of the run below 1, a number of steps from 1 on."""
    return min(total, round(warmup) if warmup >= 1 else math.ceil(warmup * total))
