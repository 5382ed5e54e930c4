"""The formulas of `README.md`, one line each, put into a plain model by hooks.

Three tensors meet wherever a sublayer ends: its output ``h``, the residual ``r``, and the norm ``LN`` of their sum, or
no norm where the sublayer had its own before it. An adapter changes ``h``; the model goes on to add ``r``, and to
normalise, as it always does.

Axes: B rows, T tokens, D width, N fused adapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from adapterhub.reference import Adapter, Case, Fusion, Place, Setting
from torch import Tensor, nn

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "swish": F.silu}
# place: (module whose input is r, module whose output is h, norm of h + r or ""), named within the block.
SITES: dict[str, dict[str, tuple[str, str, str]]] = {
    "bert": {
        "attention": ("attention", "attention.output.dropout", "attention.output.LayerNorm"),
        "feed_forward": ("intermediate", "output.dropout", "output.LayerNorm"),
    },
    "distilbert": {
        "attention": ("attention", "attention", "sa_layer_norm"),
        "feed_forward": ("ffn", "ffn", "output_layer_norm"),
    },
    "llama": {
        "attention": ("input_layernorm", "self_attn", ""),
        "feed_forward": ("post_attention_layernorm", "mlp", ""),
    },
    "gpt2": {"attention": ("ln_1", "attn", ""), "feed_forward": ("ln_2", "mlp", "")},
    "bart": {
        "attention": ("self_attn", "self_attn", "self_attn_layer_norm"),
        "cross_attention": ("encoder_attn", "encoder_attn", "encoder_attn_layer_norm"),
        "feed_forward": ("fc1", "fc2", "final_layer_norm"),
    },
    "t5": {
        "attention": ("layer.0.layer_norm", "layer.0.SelfAttention", ""),
        "cross_attention": ("layer.1.layer_norm", "layer.1.EncDecAttention", ""),
        "feed_forward": ("layer.{last}.layer_norm", "layer.{last}.DenseReluDense", ""),
    },
}


def delta(adapter: Adapter, where: Place, x_BTD: Tensor) -> Tensor:
    """δ(x) = scaling · (W_up f(W_down x + b_down) + b_up)."""
    down, down_bias, up, up_bias = (
        adapter.tensors[(*where, part)] for part in ("down.weight", "down.bias", "up.weight", "up.bias")
    )
    narrow = ACTIVATIONS[adapter.options["non_linearity"]](F.linear(x_BTD, down, down_bias))
    return adapter.options["scaling"] * F.linear(narrow, up, up_bias)


def source(kind: str, h_BTD: Tensor, r_BTD: Tensor, norm: Any) -> Tensor:
    """x: what an adapter reads."""
    return {"houlsby": h_BTD, "pfeiffer": norm(h_BTD + r_BTD), "parallel": r_BTD}[kind]


def alone(adapter: Adapter, where: Place, h_BTD: Tensor, r_BTD: Tensor, norm: Any) -> Tensor:
    """h' = h + δ(x)."""
    return h_BTD + delta(adapter, where, source(adapter.kind, h_BTD, r_BTD, norm))


def stacked(adapters: list[Adapter], where: Place, h_BTD: Tensor, r_BTD: Tensor, norm: Any) -> Tensor:
    """One after the other, each with the h' of the one before; of parallel ones the last alone has an effect."""
    if adapters[0].kind == "parallel":
        return alone(adapters[-1], where, h_BTD, r_BTD, norm)
    for adapter in adapters:
        h_BTD = alone(adapter, where, h_BTD, r_BTD, norm)
    return h_BTD


def fused(
    fusion: Fusion, adapters: list[Adapter], where: Place, h_BTD: Tensor, r_BTD: Tensor, norm: Any
) -> tuple[Tensor, Tensor]:
    """h' = y + Σₙ softmaxₙ(q · kₙ / temperature) vₙ, and the softmax. For parallel ones h' = h + that, with y = r."""
    options = fusion.options
    part = {name: tensor for (*at, name), tensor in fusion.tensors.items() if tuple(at) == where}
    x_BTD = source(fusion.kind, h_BTD, r_BTD, norm)
    y_BTD = r_BTD if fusion.kind == "parallel" else h_BTD
    asked_BTD = h_BTD if options["query_before_ln"] else x_BTD
    given_BTND = torch.stack([delta(adapter, where, x_BTD) for adapter in adapters], dim=2)
    if options["residual_before"]:
        given_BTND = given_BTND + y_BTD[:, :, None]
    query_BTD = F.linear(asked_BTD, part["query.weight"], part["query.bias"])
    key_BTND = F.linear(given_BTND, part["key.weight"], part["key.bias"])
    value_BTND = F.linear(given_BTND, part["value.weight"]) if options["value"] else given_BTND
    scores_BTN = torch.einsum("btd,btnd->btn", query_BTD, key_BTND)
    weights_BTN = (scores_BTN / (50.0 if options["temperature"] else 1.0)).softmax(-1)
    mixed_BTD = torch.einsum("btn,btnd->btd", weights_BTN, value_BTND)
    if not options["residual_before"]:
        mixed_BTD = mixed_BTD + y_BTD
    return (h_BTD + mixed_BTD if fusion.kind == "parallel" else mixed_BTD), weights_BTN


def changed(case: Case, setting: Setting, where: Place, h_BTD: Tensor, r_BTD: Tensor, norm: Any) -> tuple[Tensor, Any]:
    """h', and the weights of a fusion."""
    adapters = [case.adapters[name] for name in setting.adapters]
    if setting.composition == "fuse":
        return fused(case.fusions[setting.name], adapters, where, h_BTD, r_BTD, norm)
    return stacked(adapters, where, h_BTD, r_BTD, norm), None


def _first(arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    return arguments[0] if arguments else named["hidden_states"]


@contextmanager
def in_force(case: Case, setting: Setting, model: nn.Module) -> Iterator[dict[Place, Tensor]]:
    """The model computes with the setting's adapters; gives the weights of a fusion, filled by a forward."""
    weights: dict[Place, Tensor] = {}
    with ExitStack() as hooks:
        for where in sorted({(block, place) for block, place, _ in case.adapters[setting.adapters[0]].tensors}):
            for handle in _hook(case, setting, model, where, weights):
                hooks.callback(handle.remove)
        yield weights


def _hook(case: Case, setting: Setting, model: nn.Module, where: Place, weights: dict[Place, Tensor]) -> list[Any]:
    block = model.get_submodule(where[0])
    last = 2 if where[0].startswith("decoder") else 1
    enters, leaves, norm_name = (name.format(last=last) for name in SITES[case.name][where[1]])
    norm = block.get_submodule(norm_name).forward if norm_name else lambda sum_BTD: sum_BTD
    seen: dict[str, Tensor] = {}

    def before(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen["r"] = _first(arguments, named)

    def after(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        h_BTD = output[0] if isinstance(output, tuple) else output
        h_BTD, mixed = changed(case, setting, where, h_BTD, seen["r"], norm)
        if mixed is not None:
            weights[where] = mixed
        return (h_BTD, *output[1:]) if isinstance(output, tuple) else h_BTD

    return [
        block.get_submodule(enters).register_forward_pre_hook(before, with_kwargs=True),
        block.get_submodule(leaves).register_forward_hook(after),
    ]
