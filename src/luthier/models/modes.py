"""Training and evaluation mode of a model, module by module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
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


def normalise(model: nn.Module, by_batch: Mapping[str, nn.Module]) -> None:
    """The layers ``by_batch`` normalise with the statistics of each batch and move their running ones towards them;
    every other one with those that it has.

    A batch's own make the gradient depend on how the batch is cut, so that it may not be.
    """
    chosen = {id(module) for module in by_batch.values()}
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(id(module) in chosen)


def batch_norms(modules: Iterable[tuple[str, nn.Module]]) -> dict[str, nn.Module]:
    """Those with running statistics, by name."""
    kind = nn.modules.batchnorm._BatchNorm
    return {name: one for name, one in modules if isinstance(one, kind) and one.running_mean is not None}


def statistics(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The running statistics themselves, by the names that they have in the model."""
    return {f"{name}.{own}": buffer for name, one in layers.items() for own, buffer in one.named_buffers()}


def keep_alone(module: nn.Module, given: tuple[Tensor, ...]) -> None:
    """Before a forward: one number a channel has no variance, and is normalised with the statistics that there are."""
    x = given[0]
    module.training = module.training and x.numel() > x.shape[1]


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
