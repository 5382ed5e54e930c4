"""Bottleneck adapters, stacks and fusion against the recorded outputs of AdapterHub's library, on the same weights.

Departures, all of the parallel kind: it reads what the feed-forward reads (its paper's x), where AdapterHub reads the
residual stream before the norm of a pre-norm block; several in a stack add up, where AdapterHub's last one replaces the
others; and fused, the residual counts once, where AdapterHub's counts twice.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adapterhub.reference import Case, load, pairs

from luthier.methods.bottleneck import CHILD, FUSED, Composition, Fusion, Spec, install
from luthier.models.backbone import Backbone

BOUND = 1e-5
PRE_NORM = ("llama", "gpt2", "t5")
ACTIVATION = {"relu": "relu", "gelu": "gelu", "swish": "silu"}
OTHER_OPTIONS = ("static", "query_before_ln", "residual_before", "temperature", "cross")


def comparable(case: str, setting: str) -> bool:
    if setting.endswith(OTHER_OPTIONS):
        return False  # options that Luthier does not have
    return not setting.startswith("parallel") or not (case in PRE_NORM or setting.endswith(("stack", "fusion")))


CASES = [(case, setting) for case, setting in pairs() if comparable(case, setting)]


def backbone_of(case: Case) -> Backbone:
    return Backbone(case.model(), None, case.name, "", "sequence_logits")  # type: ignore[arg-type]


def prepared(case: Case, name: str) -> tuple[Backbone, Composition]:
    """The model with the adapters of a setting, and the recorded numbers in them."""
    backbone, setting = backbone_of(case), case.settings[name]
    count = len(backbone.seams.blocks)
    members = {}
    for member in setting.adapters:
        options = case.adapters[member].options
        size = case.adapters[member].tensors[next(iter(case.adapters[member].tensors))].shape[0]
        activation = ACTIVATION[options["non_linearity"]]
        kind: Any = case.adapters[member].kind
        members[member] = Spec(kind, size, activation, float(options["scaling"]), False, tuple(range(count)))
    composition = install(backbone, members, fused=setting.composition == "fuse")
    composition.active = list(members)
    filled = 0
    with torch.no_grad():
        for module_name, module in backbone.model.named_modules():
            where = place_of(backbone, module_name)
            for member in getattr(module, CHILD, ()):
                for part in ("down.weight", "down.bias", "up.weight", "up.bias"):
                    tensor = case.adapters[member].tensors[(*where, part)]
                    module.get_submodule(f"{CHILD}.{member}").get_parameter(part).copy_(tensor)
                    filled += 1
            if hasattr(module, FUSED):
                for part, parameter in getattr(module, FUSED).named_parameters():
                    parameter.copy_(case.fusions[name].tensors[(*where, part)])
    assert filled == sum(len(case.adapters[member].tensors) for member in setting.adapters)
    return backbone, composition


def place_of(backbone: Backbone, module: str) -> tuple[str, str]:
    """(block, place) as the fixtures name them, of a module that an adapter follows."""
    block = next((name for name in backbone.seams.blocks if module == name or module.startswith(f"{name}.")), "")
    ends = {sublayer.last: sublayer.kind for sublayer in backbone.seams.sublayers}
    return block, ends.get(module, "feed_forward")


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_outputs_are_those_of_adapterhub(name: str, setting: str) -> None:
    case = load(name)
    backbone, _ = prepared(case, setting)
    with torch.no_grad():
        found = backbone.model(**case.inputs)
    assert case.worst(found, case.settings[setting]) < BOUND
    assert case.worst(found, case.base) > 100 * BOUND, "the adapters do something"


@pytest.mark.parametrize(("name", "setting"), [pair for pair in CASES if pair[1].endswith("fusion")])
def test_mixing_weights_are_those_of_adapterhub(name: str, setting: str) -> None:
    case = load(name)
    backbone, _ = prepared(case, setting)
    layers = {n: m for n, m in backbone.model.named_modules() if isinstance(m, Fusion)}
    for layer in layers.values():
        layer.seen = []
    with torch.no_grad():
        backbone.model(**case.inputs)
    expected = case.settings[setting].fusion_weights
    assert len(layers) == len(expected)
    for module, layer in layers.items():
        p_BTN = expected[place_of(backbone, module.removesuffix(f".{FUSED}"))]
        (seen_TN,) = layer.seen or []
        real = case.inputs["attention_mask"].bool()
        if p_BTN.shape[:2] != real.shape:
            real = case.inputs["decoder_attention_mask"].bool()
        torch.testing.assert_close(seen_TN.view_as(p_BTN)[real], p_BTN[real], atol=BOUND, rtol=0)


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_switched_off_the_model_is_the_base_bit_for_bit(name: str) -> None:
    case = load(name)
    with torch.no_grad():
        expected = backbone_of(case).model(**case.inputs).last_hidden_state
        backbone, composition = prepared(case, "houlsby_a")
        with composition.base():
            off = backbone.model(**case.inputs).last_hidden_state
        on = backbone.model(**case.inputs).last_hidden_state
    assert torch.equal(off, expected)
    assert not torch.equal(on, expected)


def test_the_parallel_kind_reads_what_the_feed_forward_reads() -> None:
    """On a pre-norm block, by hooks of the test's own: mlp(x) + s · W_up relu(W_down x) with x the mlp's input."""
    case = load("llama")
    backbone, _ = prepared(case, "parallel_a")
    plain = case.model()
    adapter = case.adapters["parallel_a"]
    for index, block in enumerate(plain.layers):
        down, bias, up, up_bias = (
            adapter.tensors[f"layers.{index}", "feed_forward", part]
            for part in ("down.weight", "down.bias", "up.weight", "up.bias")
        )

        def add(_: Any, args: Any, output: Any, w: Any = (down, bias, up, up_bias)) -> Any:
            return output + adapter.options["scaling"] * ((args[0] @ w[0].T + w[1]).relu() @ w[2].T + w[3])

        block.mlp.register_forward_hook(add)
    with torch.no_grad():
        expected = plain(**case.inputs).last_hidden_state
        found = backbone.model(**case.inputs).last_hidden_state
    real = case.inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], atol=BOUND, rtol=0)
