"""What an Adaptation promises: `base()` is the model as it came, `merge()` is the same function without the method."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.methods import full, lora
from luthier.models.backbone import Backbone
from luthier.types import Adaptation


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    return Backbone(LlamaForCausalLM(config).eval(), None, "tiny", "tiny", "token_logits")  # type: ignore[arg-type]


def logits(backbone: Backbone) -> torch.Tensor:
    with torch.no_grad():
        return backbone.model(torch.arange(3, 15)[None]).logits


def disturb(adaptation: Adaptation) -> None:
    """As if trained: every chosen number moves."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adaptation.parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("options", [{}, {"variant": "dora"}, {"rslora": True, "targets": ["query", "down"]}])
def test_base_switches_a_lora_off_and_on(backbone: Backbone, options: dict[str, object]) -> None:
    before = logits(backbone)
    adaptation = lora.adapt(backbone, lora.Options(**options))  # type: ignore[arg-type]
    assert torch.equal(logits(backbone), before) or torch.allclose(logits(backbone), before, atol=1e-6)
    disturb(adaptation)
    trained = logits(backbone)
    assert (trained - before).abs().max() > 0.01
    assert adaptation.base is not None
    with adaptation.base():
        assert torch.equal(logits(backbone), before)
    assert torch.equal(logits(backbone), trained)


def test_base_leaves_requires_grad_to_the_engine(backbone: Backbone) -> None:
    adaptation = lora.adapt(backbone, lora.Options())
    wanted = {name: parameter.requires_grad for name, parameter in backbone.model.named_parameters()}
    assert adaptation.base is not None
    with adaptation.base():
        assert {name: p.requires_grad for name, p in backbone.model.named_parameters()} == wanted
    assert {name: p.requires_grad for name, p in backbone.model.named_parameters()} == wanted


@pytest.mark.parametrize("variant", ["lora", "dora", "pissa"])
def test_merged_is_the_same_function(backbone: Backbone, variant: str) -> None:
    adaptation = lora.adapt(backbone, lora.Options(variant=variant))  # type: ignore[arg-type]
    disturb(adaptation)
    trained = logits(backbone)
    assert adaptation.merge is not None
    adaptation.merge()
    assert torch.allclose(logits(backbone), trained, atol=1e-4)


def test_what_changes_the_weights_themselves_has_no_base(backbone: Backbone) -> None:
    assert full.adapt(backbone, full.Options()).base is None
    assert lora.adapt(backbone, lora.Options(variant="pissa")).base is None
