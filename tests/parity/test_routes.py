"""Ways of computing that must not change what is computed: the matmul route and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import reference
import torch

import tiny
from luthier.engine.precision import choose_matmul, matmul_route
from luthier.models.backbone import Backbone

Opened = Callable[..., Backbone]
CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(
    choose_matmul("auto", CPU)[0] != "onednn", reason="this processor's fp32 matmul does not gain from oneDNN"
)


@needs_onednn
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "gemma2", "modernbert"])
def test_onednn_gives_the_same_loss_and_gradients(name: str, opened: Opened) -> None:
    """Packed, forward and backward under the route, attention included."""
    backbone = opened(name, "sequence_logits")
    rows = reference.random_rows(len(backbone.embedding.weight))
    objective = reference.objective(backbone)
    found = {}
    for route in ("default", "onednn"):
        with matmul_route(route):
            loss = objective.loss(backbone, objective.collate(rows)).total
            found[route] = (loss.detach(), reference.gradients(backbone, loss))
    torch.testing.assert_close(found["onednn"][0], found["default"][0], rtol=1e-5, atol=1e-5)
    reference.assert_same_gradients(found["onednn"][1], found["default"][1])


@needs_onednn
def test_onednn_is_true_fp32_on_large_matrices() -> None:
    """Against double precision: a route through bf16 would be off by some 1e-3."""
    draw = torch.Generator().manual_seed(1)
    a, b = (torch.randn(512, 768, generator=draw), torch.randn(768, 640, generator=draw))
    with matmul_route("onednn"):
        product = a @ b
    exact = a.double() @ b.double()
    assert float((product - exact).norm() / exact.norm()) < 1e-6


@pytest.mark.parametrize("route", ["default", "onednn"])
def test_the_setting_is_put_back(route: str) -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), matmul_route(route):
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("name", [*tiny.ENCODERS, *tiny.DECODERS, *tiny.ENCODER_DECODERS])
def test_gradient_checkpointing_gives_the_same_gradients(name: str, opened: Opened) -> None:
    """In training mode (where checkpointing is on) with dropout's draws repeated. Each block is computed twice."""
    backbone = opened(name, "sequence_logits")
    rows = reference.random_rows(len(backbone.embedding.weight))
    objective = reference.objective(backbone)
    backbone.model.train()
    calls: list[int] = []
    layer = backbone.model.get_submodule(backbone.seams.linears[0].name)
    layer.register_forward_hook(lambda *_: calls.append(len(calls)))
    torch.manual_seed(7)
    plain = reference.gradients(backbone, objective.loss(backbone, objective.collate(rows)).total)
    backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(7)
    again = reference.gradients(backbone, objective.loss(backbone, objective.collate(rows)).total)
    reference.assert_same_gradients(again, plain, bound=1e-6)
    assert len(calls) == 1 + 2
