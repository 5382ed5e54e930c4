"""Prefix tuning: P trained keys and values before those of every attention (Li & Liang 2021, arXiv 2101.00190).

With `projection` they come out of an MLP over trained embeddings while training (section 4.3), once a forward; what is
saved is the keys and values, and the MLP is dropped. In an encoder-decoder the encoder, the decoder and its
cross-attention each have a prefix of their own, as in the paper. Tokens of a decoder count their positions after the
prefix, as PEFT has it; those of an encoder keep their own. The model's output changes at once: a prefix, however small,
takes a share of each attention.

Axes: P positions of the prefix, G key/value heads, E width of a head, D model width.
"""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_PREFIX_TUNING_POSTPROCESS_MAPPING
from pydantic import Field
from torch import Tensor, nn

from luthier.methods.common import (
    MethodOptions,
    by_file_name,
    new_head,
    read_adapter,
    require_room,
    restore,
    save_adapter,
)
from luthier.models.backbone import Backbone
from luthier.models.modes import evaluating
from luthier.models.prefixed import PREFIXED, Heard, carry, listening
from luthier.types import Adaptation, Finding, Refused

DEFAULTS = {"learning_rate": 3e-4}  # of the MLP, which moves all keys and values at once
TENSOR, OURS = "prompt_embeddings", "LUTHIER_PREFIX"
INITIAL_STD = 0.02


class Options(MethodOptions):
    whole: ClassVar[bool] = False
    seam: ClassVar[str] = "attention"
    nonlinear: ClassVar[str] = "keys and values stand beside those of the text: they are no weights"
    num_virtual_tokens: int = Field(20, gt=0, description="keys and values before those of every attention")
    projection: bool = Field(True, description="while training they come out of an MLP")
    hidden: int = Field(512, gt=0, description="width inside that MLP")

    def defaults(self) -> dict[str, Any]:
        return {} if self.projection else {"learning_rate": 3e-2}

    def positions(self, backbone: Backbone) -> int:
        return _positions(backbone, self.num_virtual_tokens)


class Prefix(nn.Module):
    """Keys and values of the attention modules of one kind, in the order in which they run."""

    def __init__(self, layers: list[Heard], length: int):
        super().__init__()
        self.shapes = [(one.heads, width) for one in layers for width in (one.key_width, one.value_width)]
        self.length, self.width = length, sum(heads * width for heads, width in self.shapes)
        self.folded_PF = torch.empty(0)

    def fold(self) -> Tensor:
        """(P, the keys and values of all layers end to end): PEFT's layout."""
        raise NotImplementedError

    def of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (G, P, E) of one layer; the first to ask in a forward has them made for all."""
        if layer == 0:
            self.folded_PF = self.fold()
        parts = self.folded_PF.split([heads * width for heads, width in self.shapes], dim=1)
        key, value = (
            parts[at].unflatten(1, self.shapes[at]).transpose(0, 1) for at in (2 * layer, 2 * layer + 1)
        )  # fmt: skip
        return key, value


class Plain(Prefix):
    """The keys and values themselves are trained."""

    def __init__(self, layers: list[Heard], length: int):
        super().__init__(layers, length)
        self.embedding = nn.Parameter(torch.randn(length, self.width) * INITIAL_STD)

    def fold(self) -> Tensor:
        return self.embedding


class Projected(Prefix):
    """MLP(P'), with the MLP of the paper's section 4.3: one tanh layer."""

    def __init__(self, layers: list[Heard], length: int, width: int, hidden: int):
        super().__init__(layers, length)
        self.embedding = nn.Parameter(torch.randn(length, width))
        last = nn.Linear(hidden, self.width)
        nn.init.normal_(last.weight, std=INITIAL_STD)
        nn.init.zeros_(last.bias)
        self.transform = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), last)

    def fold(self) -> Tensor:
        return self.transform(self.embedding)


def adapt(backbone: Backbone, options: Options) -> Adaptation:
    require_room(backbone, options.positions(backbone), "prefix.num_virtual_tokens")
    length, kinds = options.num_virtual_tokens, _attentions(backbone)
    prefixes: dict[str, Prefix] = {
        kind: Projected(layers, length, backbone.width, options.hidden) if options.projection else Plain(layers, length)
        for kind, layers in kinds.items()
    }
    added = _carry(backbone, prefixes, kinds)
    head = new_head(backbone)

    def save(folder: Path) -> None:
        with torch.no_grad():
            tensors = {_tensor(kind): prefix.fold() for kind, prefix in prefixes.items()}
        save_adapter(folder, backbone, _config(backbone, kinds, length), tensors, head)

    return Adaptation("prefix", added | head, save, base=backbone.without_prefix)


def attach(backbone: Backbone, folder: Path) -> None:
    """Put saved keys and values before those of the base model."""
    _, tensors = read_adapter(folder)
    kinds = _attentions(backbone)
    prefixes: dict[str, Prefix] = {}
    for kind, layers in kinds.items():
        saved_PF = tensors.pop(_tensor(kind), torch.empty(0, 0))
        prefix = Plain(layers, len(saved_PF))
        if saved_PF.shape != prefix.embedding.shape or not len(saved_PF):
            what = (
                f"`{_tensor(kind)}` has the shape {tuple(saved_PF.shape)}, this model's attention takes {prefix.width}"
            )
            raise Refused(Finding("adapter.mismatch", str(folder), what, "use the base model that it was trained on"))
        prefix.embedding.data = saved_PF.float()
        prefixes[kind] = prefix
    restore(by_file_name(new_head(backbone)), tensors)
    _carry(backbone, prefixes, kinds)


def _tensor(kind: str) -> str:
    return TENSOR if kind == "self" else f"{TENSOR}.{kind}"


def _attentions(backbone: Backbone) -> dict[str, list[Heard]]:
    """The attention modules by kind: "self", or "encoder", "decoder" and "cross". Heard at work, never named.

    Raises Refused where none asks transformers' interface for its attention: a prefix would change nothing.
    """
    both, inputs = backbone.encoder_decoder, backbone.sample_inputs()
    with backbone.plain(), evaluating(backbone.model), torch.no_grad(), listening() as heard:
        try:
            with backbone.attention(PREFIXED):
                backbone.trunk(**inputs)
        except (NotImplementedError, ValueError, TypeError):  # sinks, or positions in what it gives for a mask
            heard.clear()
    shown = {id(module) for _, module in backbone.named_modules()}
    heard = [one for one in heard if id(one.module) in shown]
    if not heard:
        what = "this model computes its attention itself, so that keys and values put before it would change nothing"
        raise Refused(Finding("method.no-target", "method", what, "nearest: `prompt`, whose tokens any model reads"))
    kinds: dict[str, list[Heard]] = {}
    for one in heard:
        kinds.setdefault(_kind(one) if both else "self", []).append(one)
    return kinds


def _kind(one: Heard) -> str:
    """Of an encoder-decoder, told by lengths: a sample has 2 tokens of the target, and a source of another length."""
    if one.queries != one.keys:
        return "cross"
    return "decoder" if one.queries == 2 else "encoder"


def _carry(
    backbone: Backbone, prefixes: dict[str, Prefix], kinds: dict[str, list[Heard]]
) -> dict[str, nn.Parameter]:  # fmt: skip
    """Inside the trunk, whose hidden states it changes. Returns its parameters by name."""
    known = {id(parameter) for parameter in backbone.model.parameters()}
    backbone.trunk.add_module("soft_prefix", nn.ModuleDict(prefixes).to(backbone.device))
    for kind, prefix in prefixes.items():
        for layer, one in enumerate(kinds[kind]):
            carry(one.module, backbone.prefix_switch, partial(prefix.of, layer))
    backbone.prefix_positions = _positions(backbone, next(iter(prefixes.values())).length)
    backbone.prefix_switch.on = True
    if backbone.layout == "padded":
        backbone.set_attention("sdpa")
    return {name: p for name, p in backbone.model.named_parameters() if id(p) not in known}


def _positions(backbone: Backbone, length: int) -> int:
    """How far the prefix moves the tokens' positions: in a decoder that counts them, past itself."""
    counted = "position_ids" in inspect.signature(backbone.trunk.forward).parameters
    if backbone.role and backbone.seams.embedding is None:  # a tower of pictures
        return 0
    return length if counted and not backbone.encoder_decoder and backbone.causal else 0


def _config(backbone: Backbone, kinds: dict[str, list[Heard]], length: int) -> dict[str, Any]:
    """PEFT's fields; its own type only where it gives the same logits."""
    shared: dict[str, Any] = {"num_virtual_tokens": length, "prefix_projection": False}
    if not _peft_agrees(backbone, kinds, length):
        return {"peft_type": OURS} | shared
    layers = kinds["self"]
    shape = {"token_dim": layers[0].heads * layers[0].key_width, "num_attention_heads": layers[0].heads}
    counts = {"num_layers": len(layers), "num_transformer_submodules": 1}
    return {"peft_type": "PREFIX_TUNING"} | shared | shape | counts


def _peft_agrees(backbone: Backbone, kinds: dict[str, list[Heard]], length: int) -> bool:
    """PEFT fills the KV cache of a model that writes: one shape for all layers, positions that follow, no windows."""
    config = backbone.model.config.get_text_config()
    special = config.model_type in TRANSFORMERS_MODELS_TO_PREFIX_TUNING_POSTPROCESS_MAPPING
    if backbone.needs != "token_logits" or set(kinds) != {"self"} or special:
        return False
    layers = kinds["self"]
    shapes = {(one.heads, one.key_width) for one in layers} | {(one.heads, one.value_width) for one in layers}
    whole = len(shapes) == 1 and len(layers) == config.num_hidden_layers and not any(one.windowed for one in layers)
    return whole and backbone.prefix_positions == length
