"""Train a part of the model as it is: the head, the last n blocks, the norms, the biases.

Biases alone are BitFit (Ben Zaken et al. 2022, arXiv 2106.10199). A head that was not in the checkpoint always trains.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from luthier.methods.common import MethodOptions, save_whole
from luthier.models.backbone import Backbone
from luthier.models.modes import evaluating
from luthier.types import Adaptation, Finding, Refused

DEFAULTS = {"learning_rate": 1e-3}


Part = Literal["head", "norms", "biases", "embedding"]


class Options(MethodOptions):
    train: list[Part] = Field(default=["head"], description="parts that train")
    last: int = Field(
        0,
        ge=0,
        description="the last n blocks (an encoder's come before a decoder's), and what follows in the trunk",
    )


def adapt(backbone: Backbone, options: Options) -> Adaptation:
    chosen, findings = backbone.head_parameters() if "head" in options.train else {}, []
    parts: dict[str, dict[str, nn.Parameter]] = {
        part: _part(backbone, part) for part in options.train if part != "head"
    }
    if options.last:
        parts[f"last {options.last} blocks"] = _last(backbone, options.last)
    for part, parameters in parts.items():
        if parameters.keys() <= backbone.fresh:  # a new head trains anyway: of the pretrained model this names nothing
            findings.append(_nothing(part))
        chosen |= parameters
    if not chosen and not findings:
        findings.append(_nothing("head"))
    if findings:
        raise Refused(*findings)
    chosen |= {name: p for name, p in backbone.named_parameters() if name in backbone.fresh}
    return Adaptation("freeze", chosen, save_whole(backbone))


def _nothing(part: str) -> Finding:
    mend = "choose among head, norms, biases, embedding, or `freeze.last: n`"
    return Finding("method.no-target", "freeze.train", f"this model has no {part} to train", mend)


def _part(backbone: Backbone, part: Part) -> dict[str, nn.Parameter]:
    found = {}
    names = {id(p): name for name, p in backbone.model.named_parameters()}  # a tied one has one name here
    for module_name, module in backbone.named_modules():
        for name, parameter in module.named_parameters(module_name, recurse=False):
            is_norm = "norm" in type(module).__name__.lower()
            is_bias = name.endswith("bias")
            is_embedding = module_name == backbone.seams.embedding
            if {"head": False, "norms": is_norm, "biases": is_bias, "embedding": is_embedding}[part]:
                found[names[id(parameter)]] = parameter
    return found


def _last(backbone: Backbone, count: int) -> dict[str, nn.Parameter]:
    blocks = backbone.seams.blocks
    if count > len(blocks):
        what = f"`last: {count}` is more than the {len(blocks)} blocks of this model"
        raise Refused(Finding("method.no-target", "freeze.last", what, f"give 1 to {len(blocks)}, or `method: full`"))
    chosen = tuple(f"{name}." for name in [*blocks[-count:], *_called_after(backbone, blocks[-1])])
    return {name: p for name, p in backbone.named_parameters() if name.startswith(chosen)}


def _called_after(backbone: Backbone, block: str) -> set[str]:
    """The modules of the trunk that run once ``block`` is done: a final norm, a pooler. Asked of the trunk itself.

    Where a module is written says little: relative position embeddings may stand below the blocks that use them.
    """
    order: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in backbone.named_modules()
        if name == block or any(True for _ in module.parameters(recurse=False))
    ]
    with evaluating(backbone.model), backbone.attention("sdpa"), torch.no_grad():
        backbone.at_work()
    for hook in hooks:
        hook.remove()
    last = order.index(block)
    return set(order[last + 1 :]) - set(order[:last])
