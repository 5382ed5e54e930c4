"""Training and evaluation mode of a model, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and the mode of every module as it was after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def keep_statistics(model: nn.Module) -> None:
    """Normalise with the statistics that the checkpoint has, also in training.

    A batch's own would make the gradient depend on how the batch is cut, and evaluation on what was trained last.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
