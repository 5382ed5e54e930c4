"""Bottleneck adapters: small layers inside each block train, the model is left as it is.

Kinds: Houlsby (arXiv 1902.00751), Pfeiffer (arXiv 2005.00247), parallel (arXiv 2110.04366); their forms are in
``methods/bottleneck.py``. ``stack`` names runs whose adapters lie beneath, in force and frozen.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from luthier.methods.bottleneck import CHILD, FUSED, Composition, Kind, Spec, install
from luthier.methods.common import MethodOptions, by_file_name, new_head, read_adapter, restore, save_adapter
from luthier.methods.members import TYPE, Member, check_bases, find_members, specs
from luthier.models.backbone import Backbone
from luthier.models.seams import width_of
from luthier.types import Adaptation, Finding, Refused

DEFAULTS = {"learning_rate": 1e-3}
OWN = "default"


class Options(MethodOptions):
    whole: ClassVar[bool] = False
    seam: ClassVar[str] = "residual"
    nonlinear: ClassVar[str] = "an activation stands inside each bottleneck: no matrix of the model does the same"
    paths: ClassVar[tuple[str, ...]] = ("stack", "start")
    kind: Kind = Field("pfeiffer", description="houlsby: two a block; pfeiffer: one; parallel: beside the feed-forward")
    reduction: float = Field(16.0, ge=1, description="the bottleneck is the hidden width divided by this")
    size: int | None = Field(None, gt=0, description="of the bottleneck; instead of `reduction`")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field("relu", description="inside the bottleneck")
    scaling: float | None = Field(None, gt=0, description="of what it adds; default: 1, parallel 4")
    norm: bool = Field(False, description="a layer norm before the bottleneck")
    dropout: float = Field(0.0, ge=0, lt=1, description="inside the bottleneck, while training")
    blocks: list[int] | None = Field(None, description="those that get one, counted from 0; default: all")
    stack: list[str] = Field(default_factory=list, description="runs whose adapters lie beneath, frozen; first: lowest")
    start: list[str] = Field(default_factory=list, max_length=1, description="a run whose adapter it begins as")


def adapt(backbone: Backbone, options: Options) -> Adaptation:
    """Raises Refused for blocks that are not there, and for runs beneath that do not fit this model."""
    beneath = find_members(options.located(options.stack))
    check_bases(backbone, beneath)
    begun = [replace(member, name=OWN) for member in find_members(options.located(options.start))]
    check_bases(backbone, begun)
    spec = begun[0].spec if begun else _spec(backbone, options)
    composition = install(backbone, {member.name: member.spec for member in beneath} | {OWN: spec})
    composition.active = list(composition.members)
    for member in [*beneath, *begun]:
        member.put(backbone)
    return adaptation("adapter", backbone, composition, own_parameters(backbone, OWN))


def _spec(backbone: Backbone, options: Options) -> Spec:
    widths: dict[int, set[int]] = {}
    for place in backbone.seams.sublayers:
        widths.setdefault(place.block, set()).add(width_of(backbone.model.get_submodule(place.last)))
    fitting = [block for block, found in widths.items() if found == {backbone.stream_width}]
    towers = {backbone.seams.stacks[block] for block in fitting}
    if not fitting or (not any(towers) and len(fitting) < len(backbone.seams.blocks)):
        what = "a bottleneck follows an attention or a feed-forward, and "
        what += "these here have several widths" if widths else "this model has none"
        raise Refused(Finding("method.no-target", "method", what, "use `lora`, or `freeze.last: 1`"))
    count = len(backbone.seams.blocks)
    blocks = fitting if options.blocks is None else sorted(set(options.blocks))
    if not blocks or not 0 <= blocks[0] <= blocks[-1] < count:
        what = f"`blocks: {options.blocks}` names some that are not there: this model has {count}"
        raise Refused(Finding("method.no-target", "adapter.blocks", what, f"give numbers from 0 to {count - 1}"))
    size = options.size or max(1, int(backbone.stream_width / options.reduction))
    scaling = options.scaling or (4.0 if options.kind == "parallel" else 1.0)
    return Spec(options.kind, size, options.activation, scaling, options.norm, tuple(blocks), options.dropout)


def standing(backbone: Backbone) -> dict[str, nn.Parameter]:
    """The numbers of all adapters in the model, and of their fusion."""
    marks = (f".{CHILD}.", f".{FUSED}.")
    return {n: p for n, p in backbone.named_parameters() if any(mark in n for mark in marks)}


def own_parameters(backbone: Backbone, name: str) -> dict[str, nn.Parameter]:
    """The numbers of one adapter in the model."""
    return {n: p for n, p in backbone.named_parameters() if f".{CHILD}.{name}." in n}


def adaptation(
    method: str, backbone: Backbone, composition: Composition, trained: dict[str, nn.Parameter], **more: Any
) -> Adaptation:
    """What trains, with a new head; all members are saved, so that a run needs no other."""
    head = new_head(backbone)

    def save(folder: Path) -> None:
        save_adapter(folder, backbone, config(backbone, method, composition), by_file_name(standing(backbone)), head)

    return Adaptation(method, trained | head, save, base=composition.base, **more)


def config(backbone: Backbone, method: str, composition: Composition) -> dict[str, Any]:
    return {
        "peft_type": TYPE[method],
        "members": {name: asdict(spec) for name, spec in composition.members.items()},
        "active": composition.active,
        "base": backbone.fingerprint,
    }


def attach(backbone: Backbone, folder: Path) -> None:
    """Put saved adapters into their base model. Raises Refused where it is another model."""
    settings, tensors = read_adapter(folder)
    members = specs(settings, folder)
    check_bases(backbone, [Member(folder.name, folder, settings, tensors)])
    composition = install(backbone, members, fused=settings["peft_type"] == TYPE["fusion"])
    composition.active = list(settings["active"])
    restore(by_file_name(standing(backbone) | new_head(backbone)), tensors)
