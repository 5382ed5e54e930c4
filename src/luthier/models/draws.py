"""Where random numbers begin."""

from __future__ import annotations

import torch


def begin_at(seed: int, device: torch.device) -> None:
    """What is drawn from here on, on the CPU and on ``device``, is told by ``seed``, as by ``torch.manual_seed``.

    That one seeds every kind of device that torch knows of, and for one not in use yet writes down the stack of calls
    it was asked from: on the CPU alone a millisecond a step, for nothing.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
