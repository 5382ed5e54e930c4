"""The trunk of a model and the transformer blocks of a stack, found by structure and never by the model's name."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def blocks_of(stack: nn.Module, prefix: str = "") -> list[str]:
    """The longest list of like modules in ``stack``, of those with attention in them where there are such, and not the
    convolutions that a sound goes through before: the names of its blocks, after ``prefix``."""
    lists = [
        (_attends(module), len(module), name)
        for name, module in stack.named_modules(prefix=prefix)
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1
    ]
    if not lists:
        return []
    _, length, name = max(lists, key=lambda found: (found[0], found[1], -found[2].count(".")))
    return [f"{name}.{index}" for index in range(length)]


def _attends(blocks: nn.ModuleList) -> bool:
    return any("attention" in type(module).__name__.lower() for module in blocks.modules())


def trunk_name(model: PreTrainedModel) -> str:
    """The module that gives hidden states, "" where the model is nothing else: under the family's name for it, or an
    encoder, or one tower of a model of two, that stands beside a head alone."""
    children = dict(model.named_children())
    if model.base_model_prefix in children:
        return model.base_model_prefix
    for alone, other in (("encoder", "decoder"), ("vision_model", "text_model")):
        if isinstance(children.get(alone), PreTrainedModel) and other not in children:
            return alone
    return ""
