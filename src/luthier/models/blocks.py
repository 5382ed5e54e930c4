"""The transformer blocks of a stack, found by structure and never by the model's name."""

from __future__ import annotations

from torch import nn


def blocks_of(stack: nn.Module, prefix: str = "") -> list[str]:
    """The longest list of like modules in ``stack``: the names of its blocks, after ``prefix``."""
    lists = [
        (len(module), name)
        for name, module in stack.named_modules(prefix=prefix)
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1
    ]
    if not lists:
        return []
    length, name = max(lists, key=lambda found: (found[0], -found[1].count(".")))
    return [f"{name}.{index}" for index in range(length)]
