"""Encoder-decoders of other families, by structure: the head answered for, both stacks, attention to the source."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import tiny
from luthier.models.backbone import Backbone
from luthier.types import Batch

IDS = {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
T5 = tiny.config("t5-tied").to_dict() | IDS
BART = tiny.config("bart").to_dict() | IDS
LAYER = IDS | {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16,
}  # fmt: skip
LED = {"attention_window": 8, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64}
WORKS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("mt5", "umt5"), T5), "longt5": T5 | {"local_radius": 4},
    **dict.fromkeys(("mbart", "pegasus", "marian", "m2m_100", "blenderbot", "plbart", "pegasus_x"), BART),
    "led": BART | LED, "t5gemma": IDS | {"encoder": LAYER, "decoder": LAYER},
}  # fmt: skip
REFUSED = {"switch_transformers": T5 | {"num_experts": 2, "num_sparse_encoder_layers": 1}}


def opened(name: str, values: dict[str, Any]) -> Backbone:
    values = {key: value for key, value in values.items() if key not in ("model_type", "architectures")}
    torch.manual_seed(0)
    model: Any = transformers.AutoModelForSeq2SeqLM.from_config(transformers.AutoConfig.for_model(name, **values))
    return Backbone(model.eval(), None, name, "", "token_logits")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WORKS)
@torch.no_grad()
def test_logits_are_those_of_labels(name: str) -> None:
    """Two sources of five and three tokens, padded, and a target of four each."""
    backbone = opened(name, WORKS[name])
    source = torch.tensor([[20, 30, 40, 50, 1], [60, 70, 1, 2, 2]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    target = torch.tensor([[10, 11, 12, 1], [13, 14, 15, 1]])
    batch = Batch({"input_ids": source, "attention_mask": mask, "target_ids": target}, [0, 1])
    found = backbone.token_logits(backbone.hidden(batch))
    expected = backbone.model(input_ids=source, attention_mask=mask, labels=target).logits.flatten(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert backbone.head_problem() == ""
    assert backbone.causal


@pytest.mark.parametrize("name", WORKS)
def test_both_stacks_and_the_attention_to_the_source(name: str) -> None:
    """Two blocks each; four matrices of each of the decoder's read the source."""
    seams = opened(name, WORKS[name]).seams
    assert seams.stacks == ["encoder", "encoder", "decoder", "decoder"]
    cross = [linear for linear in seams.linears if "cross_attention" in linear.roles]
    assert len(cross) == 8
    assert {linear.stack for linear in cross} == {"decoder"}
    assert seams.head == ["lm_head"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_head_that_asks_for_more_is_known_before_it_is_used(name: str) -> None:
    assert "router_logits" in opened(name, REFUSED[name]).head_problem()
