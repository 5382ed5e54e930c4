"""What PEFT does well, by its own injection: its layers replace linear layers in place, its layout is what is saved.

Only the engine sets ``requires_grad``, so adapters are switched off by each layer's own flag and never by PEFT's public
switch, which would touch it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PeftConfig, PeftType
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from luthier.methods.common import PREFIX, by_file_name, new_head, read_adapter, restore, save_adapter, task_type
from luthier.models.backbone import Backbone
from luthier.types import Adaptation, Finding, Refused

NOT_OURS = {"auto_mapping", "runtime_config", "modules_to_save", "megatron_config", "megatron_core"}


def inject(backbone: Backbone, config: PeftConfig, name: str = "default") -> dict[str, nn.Parameter]:
    """Put PEFT's layers into the model, the adapter under ``name``; returns what they add and PEFT would train, under
    its names there.

    Raises Refused where PEFT has no such layer for a target (OFT on GPT-2's Conv1D).
    """
    known = {id(parameter) for parameter in backbone.model.parameters()}
    vars(backbone.model).pop("peft_config", None)  # of another role, whose layers stay: PEFT would mix the two up
    config.task_type = task_type(backbone)
    config.base_model_name_or_path = backbone.path
    try:
        # What `inject_adapter_in_model` calls; it leaves out VeRA, whose layers share two matrices among themselves.
        PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)](backbone.model, config, adapter_name=name)
    except (ValueError, TypeError) as error:
        what = f"PEFT can't put {config.peft_type} into this model: {str(error).splitlines()[0]}"
        raise Refused(Finding("method.unsupported", "method", what, "use `lora`, which works here")) from None
    for module in backbone.model.modules():
        if isinstance(module, BaseTunerLayer) and isinstance(base := module.get_base_layer(), nn.Conv2d):
            # Some convolutional networks read these to pad by TensorFlow's rule.
            vars(module).update(kernel_size=base.kernel_size, stride=base.stride, dilation=base.dilation)
    return new_parameters(backbone, known)


def new_parameters(backbone: Backbone, known: set[int]) -> dict[str, nn.Parameter]:
    """Those that are not among ``known`` by identity, and that PEFT would train."""
    return {n: p for n, p in backbone.model.named_parameters() if id(p) not in known and p.requires_grad}


def adaptation(method: str, backbone: Backbone, config: PeftConfig, added: dict[str, nn.Parameter]) -> Adaptation:
    """The injected layers ``added`` and a new head train; off gives the base back; merging is PEFT's."""
    head = new_head(backbone)

    def save(folder: Path) -> None:
        save_adapter(folder, backbone, settings(config), named(added), head)

    return Adaptation(
        method, added | head, save, base=lambda: switched_off(backbone.model), merge=lambda: merge(backbone)
    )


def attach(
    backbone: Backbone, folder: Path, *, resize: Callable[[Backbone, Any], None] = lambda backbone, config: None,
    extra: Callable[[], Mapping[str, Tensor]] = dict,
) -> None:  # fmt: skip
    """Put a saved adapter on its base model, in place, with ``extra`` places that its file fills.

    ``resize(backbone, config)`` may give the injected layers other sizes first.

    Raises Refused where it does not fit.
    """
    settings, tensors = read_adapter(folder)
    kind = settings.get("peft_type")
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        what = f"PEFT has no adapter of the kind {kind!r}"
        raise Refused(Finding("adapter.unreadable", str(folder), what, "give the `final` folder of a run"))
    config = saved_config(settings)
    known_parameters = {id(parameter) for parameter in backbone.model.parameters()}
    inject(backbone, config)
    resize(backbone, config)
    added = new_parameters(backbone, known_parameters)
    for parameter in added.values():
        parameter.data = parameter.data.float()
    restore({**named(added), **by_file_name(new_head(backbone)), **extra()}, tensors)


def saved_config(settings: dict[str, Any]) -> PeftConfig:
    """PEFT's settings of a saved adapter, without what names code, and what would wrap the head: it is put back by its
    own names."""
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[settings["peft_type"]]
    known = {one.name for one in fields(kind)} - NOT_OURS
    return kind(**{key: value for key, value in settings.items() if key in known} | {"inference_mode": False})


def conv1d(backbone: Backbone, targets: list[str]) -> bool:
    """Whether the targets keep their weights transposed, as GPT-2 does."""
    return all(isinstance(backbone.model.get_submodule(name), Conv1D) for name in targets)


def named(added: dict[str, nn.Parameter], adapter: str = "default") -> dict[str, nn.Parameter]:
    """Under the names of PEFT's files, which leave the adapter's own name out: where it stands last, since a layer may
    be called the same (BERT's `value`)."""
    return {f"{PREFIX}{''.join(name.rpartition(f'.{adapter}')[::2])}": p for name, p in added.items()}


def settings(config: PeftConfig) -> dict[str, Any]:
    return config.to_dict() | {"target_modules": sorted(config.target_modules or [])}  # type: ignore[attr-defined]


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True  # the public switch would touch requires_grad, which is the engine's
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@contextmanager
def merged(model: nn.Module, dtypes: Collection[torch.dtype] = (torch.float32,)) -> Iterator[list[nn.Module]]:
    """Meanwhile each LoRA that is in force lies in the weights that it adapts, where those are of ``dtypes``; gives the
    layers of which that is so.

    It is added on copies, and afterwards the very tensors are back: nothing is subtracted. Other adapters in the same
    layers are left alone. A weight that something else reads too (a head that is the embedding) is not touched.
    """
    layers = _merging(model, dtypes)
    weights = [(parameter, parameter.data) for layer in layers for parameter in _base(layer).parameters()]
    caches = [(layer, dict(layer._caches)) for layer in layers]
    try:
        for layer in layers:
            cast(BaseTunerLayer, layer).merge(safe_merge=True)
        yield cast(list[nn.Module], layers)
    finally:
        for parameter, data in weights:
            parameter.data = data
        for layer, cache in caches:
            layer.merged_adapters.clear()
            layer._caches = cache


def copied_bytes(model: nn.Module, dtypes: Collection[torch.dtype]) -> int:
    """What ``merged`` holds a second time meanwhile."""
    weights = [cast(Tensor, _base(layer).weight) for layer in _merging(model, dtypes)]
    return sum(weight.numel() * weight.element_size() for weight in weights)


def _merging(model: nn.Module, dtypes: Collection[torch.dtype]) -> list[LoraLayer]:
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    found: list[LoraLayer] = []
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and isinstance(layer, BaseTunerLayer):
            alone = all(owners[id(one)] == 1 and one.dtype in dtypes for one in _base(layer).parameters())
            found += [layer] if alone and not layer.disable_adapters else []
    return found


def _base(layer: LoraLayer) -> nn.Module:
    return cast(BaseTunerLayer, layer).get_base_layer()


def merge(backbone: Backbone) -> None:
    for _, module in backbone.named_modules():
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)


def fold(backbone: Backbone) -> None:
    """Merge, and put each base layer back where PEFT's layer stands: the model has its own names again."""
    model = backbone.model
    merge(backbone)
    layers = [(name, module) for name, module in backbone.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, layer in layers:
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner).register_module(leaf, layer.get_base_layer())
