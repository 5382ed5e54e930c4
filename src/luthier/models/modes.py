"""Training and evaluation mode of a model, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


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


def train_without_dropout(model: nn.Module) -> None:
    """Every module in evaluation mode, so that a pass draws nothing.

    Blocks that are to be checkpointed look for training mode: they alone are in it, with their own rates at 0.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and getattr(module, "gradient_checkpointing", False):
            module.training = True
            rates = [name for name, value in vars(module).items() if "dropout" in name and isinstance(value, float)]
            vars(module).update(dict.fromkeys(rates, 0.0))
