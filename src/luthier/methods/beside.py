"""More LoRA adapters in the weights that one is tuned in: one is in force at a time, and the base is held once.

PEFT keeps several adapters in a layer, by name. Which one is in force is each layer's own field; PEFT's public switch
would touch ``requires_grad``, which is the engine's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from luthier.methods.by_role import ByRole
from luthier.methods.combine import Methods
from luthier.methods.common import PREFIX, MethodOptions, read_adapter, restore, save_adapter, task_type
from luthier.methods.injected import inject, named, saved_config, settings
from luthier.methods.lora import Options, fresh_config
from luthier.models.backbone import Backbone
from luthier.types import Finding, Refused

TUNED = "default"
VARIANTS = ("lora", "dora")


@dataclass
class Beside:
    """An adapter with a name of its own: its parameters as the model names them, PEFT's settings of it, and what its
    file held beside it (the head of a reward model)."""

    backbone: Backbone
    name: str
    parameters: dict[str, nn.Parameter]
    settings: dict[str, Any]
    head: dict[str, Tensor]

    @contextmanager
    def using(self) -> Iterator[None]:
        """It alone is in force."""
        layers = [module for module in self.backbone.model.modules() if isinstance(module, BaseTunerLayer)]
        before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
        for layer in layers:
            layer._active_adapter, layer._disable_adapters = [self.name], False
        try:
            yield
        finally:
            for layer, (active, off) in zip(layers, before, strict=True):
                layer._active_adapter, layer._disable_adapters = active, off

    def save(self, folder: Path, read_by: Backbone, head: Mapping[str, nn.Parameter]) -> None:
        """In PEFT's layout, with the head that reads it."""
        told = self.settings | {"task_type": task_type(read_by)}
        save_adapter(folder, read_by, told, named(self.parameters, self.name), head)


def holds_beside(methods: Methods | ByRole) -> bool:
    """Whether others can stand beside what these methods train, in unchanged weights."""
    if not isinstance(methods, Methods) or len(methods.options) != 1:
        return False
    lora = methods.options.get("lora")
    return isinstance(lora, Options) and lora.variant in VARIANTS and not lora.quantize


def add(backbone: Backbone, options: MethodOptions, name: str) -> Beside:
    """A fresh one of the same kind; the one that is tuned stays in force."""
    assert isinstance(options, Options)
    return _put(backbone, fresh_config(backbone, options), name)


def open_beside(backbone: Backbone, folder: Path, name: str) -> Beside:
    """A saved LoRA. Raises Refused where it is another kind, or does not fit."""
    kept, tensors = read_adapter(folder)
    if kept.get("peft_type") != "LORA" or kept.get("bias", "none") != "none":
        what, mend = "this is no LoRA adapter", "give the `final` folder of a run with `method: lora`"
        raise Refused(Finding("adapter.unreadable", str(folder), what, mend))
    made = _put(backbone, saved_config(kept), name)
    places = named(made.parameters, name)
    made.head = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items() if key not in places}
    restore(places, {key: tensor for key, tensor in tensors.items() if key in places})
    return made


def _put(backbone: Backbone, config: PeftConfig, name: str) -> Beside:
    added = inject(backbone, config, name)
    for parameter in added.values():
        parameter.data = parameter.data.float()
    for module in backbone.model.modules():
        if isinstance(module, BaseTunerLayer):
            module._active_adapter = [TUNED]
    return Beside(backbone, name, added, settings(config), {})
