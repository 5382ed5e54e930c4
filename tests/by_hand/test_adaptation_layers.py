"""A bottleneck, a fusion and a LoRA linear on numbers that fit on paper, and how several stand at one place."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from luthier.methods.bottleneck import Bottleneck, Composition, Fusion, Spec
from luthier.methods.injected import named
from luthier.types import Batch, Refused


def bottleneck(*, scaling: float = 1.0, up: tuple[list[list[float]], list[float]] | None = None) -> Bottleneck:
    """W_down = [[1, -1]], b_down = [1]: D = 2, M = 1."""
    layer = Bottleneck(2, Spec("houlsby", 1, "relu", scaling, False, (0,)))
    with torch.no_grad():
        layer.down.weight.copy_(torch.tensor([[1.0, -1.0]]))
        layer.down.bias.copy_(torch.tensor([1.0]))
        if up is not None:
            layer.up.weight.copy_(torch.tensor(up[0]))
            layer.up.bias.copy_(torch.tensor(up[1]))
    return layer


UP = ([[2.0], [3.0]], [0.5, -0.5])


def test_one_bottleneck() -> None:
    """x = (3, 1): down 3 - 1 + 1 = 3, relu 3, up (2·3 + ½, 3·3 - ½) = (6.5, 8.5), scaled by 2: (13, 17).

    x = (0, 5): down -5 + 1 = -4, relu 0, up is its bias alone, scaled: (1, -1).
    """
    delta = bottleneck(scaling=2.0, up=UP)(torch.tensor([[3.0, 1.0], [0.0, 5.0]]))
    assert torch.equal(delta, torch.tensor([[13.0, 17.0], [1.0, -1.0]]))


def test_a_new_bottleneck_adds_nothing() -> None:
    assert torch.equal(bottleneck()(torch.randn(3, 2)), torch.zeros(3, 2))


def test_a_bottleneck_with_a_norm() -> None:
    """x = (3, 1) has mean 2 and standard deviation 1: normed (1, -1); down 1 + 1 + 1 = 3; up (6.5, 8.5)."""
    layer = Bottleneck(2, Spec("houlsby", 1, "relu", 1.0, True, (0,)))
    layer.load_state_dict(bottleneck(up=UP).state_dict(), strict=False)
    torch.testing.assert_close(layer(torch.tensor([3.0, 1.0])), torch.tensor([6.5, 8.5]), atol=1e-4, rtol=0)


def test_one_fusion() -> None:
    """y = (1, 0); δ₁ = (ln 3, 5), δ₂ = (0, 7); Q = K = I without biases, V = 2 I.

    Scores y·δₙ are ln 3 and 0, so p = (3, 1) / 4. The sum of pₙ V δₙ is
    ¾ · 2 · (ln 3, 5) + ¼ · 2 · (0, 7) = (1.5 ln 3, 7.5 + 3.5).
    """
    layer = Fusion(2)
    with torch.no_grad():
        for part in (layer.query, layer.key):
            part.weight.copy_(torch.eye(2))
        layer.value.weight.copy_(2 * torch.eye(2))
    layer.seen = []
    out = layer(torch.tensor([[1.0, 0.0]]), [torch.tensor([[math.log(3), 5.0]]), torch.tensor([[0.0, 7.0]])])
    torch.testing.assert_close(out, torch.tensor([[1.5 * math.log(3), 11.0]]))
    torch.testing.assert_close(layer.seen[0], torch.tensor([[0.75, 0.25]]))


def test_a_new_fusion_is_near_the_average() -> None:
    """Q and K of standard deviation 0.02 give scores of about 0.02² · D · |y| |δ|: p is ½ within a per cent."""
    torch.manual_seed(0)
    y, first, second = torch.randn(3, 5, 16).unbind(0)
    found = Fusion(16)(y, [first, second])
    torch.testing.assert_close(found, (first + second) / 2, atol=0.05, rtol=0)


def test_one_lora_linear() -> None:
    """W = I, rank 1, alpha 2: W x + (2 / 1) · B A x with A = [1, 2], B = [3, -1]ᵀ; x = (1, 1).

    A x = 3, B A x = (9, -3), doubled (18, -6); with x: (19, -5). PEFT's layer, as it is injected.
    """
    from peft import LoraConfig, inject_adapter_in_model

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2, bias=False)

    model: Any = Model()
    model.linear.weight.data = torch.eye(2)
    inject_adapter_in_model(LoraConfig(r=1, lora_alpha=2, target_modules=["linear"]), model)
    model.linear.lora_A["default"].weight.data = torch.tensor([[1.0, 2.0]])
    model.linear.lora_B["default"].weight.data = torch.tensor([[3.0], [-1.0]])
    assert torch.equal(model.linear(torch.tensor([1.0, 1.0])), torch.tensor([19.0, -5.0]))


def test_an_adapter_s_name_is_left_out_where_it_stands_last() -> None:
    """As in PEFT's files; a layer may be called as the adapter is, or begin so."""
    one = nn.Parameter(torch.zeros(1))
    given = ["self.value.lora_A.value.weight", "value_proj.lora_B.value.weight", "q.lora_magnitude_vector.value.weight"]
    wanted = ["self.value.lora_A.weight", "value_proj.lora_B.weight", "q.lora_magnitude_vector.weight"]
    assert list(named(dict.fromkeys(given, one), "value")) == [f"base_model.model.{name}" for name in wanted]


def members() -> tuple[Composition, nn.ModuleDict]:
    """Two adapters that add a constant: a adds (1, 0), b adds (0, 1) to whatever comes."""
    here = nn.ModuleDict()
    for name, bias in (("a", [1.0, 0.0]), ("b", [0.0, 1.0])):
        here[name] = bottleneck(up=([[0.0], [0.0]], bias))
    spec = Spec("houlsby", 1, "relu", 1.0, False, (0,))
    return Composition({"a": spec, "b": spec}), here


def total(composition: Composition, here: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    for change in composition.changes(here, None):
        x = x + change(x)
    return x


def test_one_both_or_none_in_force() -> None:
    composition, here = members()
    x = torch.zeros(1, 3, 2)
    assert torch.equal(total(composition, here, x), x)
    with composition.using("a", "b"):
        assert torch.equal(total(composition, here, x), torch.ones(1, 3, 2))
        with composition.base():
            assert torch.equal(total(composition, here, x), x)
    with pytest.raises(Refused, match="no such adapter"), composition.using("c"):
        pass


def test_each_row_through_its_own_adapter() -> None:
    """Packed rows of 2, 1 and 1 tokens ask for b, a and none: tokens get (0, 1), (0, 1), (1, 0) and nothing."""
    composition, here = members()
    ids = torch.zeros(1, 4, dtype=torch.long)
    batch = Batch({"input_ids": ids, "starts": torch.tensor([0, 2, 3]), "lengths": torch.tensor([2, 1, 1])}, [0, 1, 2])
    with composition.rows(torch.tensor([1, 0, -1]), batch):
        out = total(composition, here, torch.zeros(1, 4, 2))
    assert out[0].tolist() == [[0, 1], [0, 1], [1, 0], [0, 0]]
