"""The head alone, the trunk answered for, gives what the whole model gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
import transformers

import tiny
from luthier.data.collate import lay_out
from luthier.evaluate.outputs import pool
from luthier.models.backbone import Backbone
from luthier.models.heads import head_logits
from luthier.types import Batch, Refused

Opened = Callable[..., Backbone]
CASES = [(name, "sequence_logits") for name in (*tiny.ENCODERS, *tiny.DECODERS)]
CASES += [(name, "token_logits") for name in tiny.DECODERS]
READS = {"modernbert-mean": "all"} | dict.fromkeys((*tiny.DECODERS, *tiny.ENCODER_DECODERS), "last")
NO_HEAD_ON_TOKENS: dict[str, tuple[str, ...]] = {
    "tag_logits": ("gemma3",), "span_logits": ("gemma2", "gemma3"),
}  # fmt: skip
TARGET = [30, 40, 1, 50, 60, 1]  # with an end-of-text token inside


@pytest.mark.parametrize(("name", "needs"), CASES)
@torch.no_grad()
def test_head_logits_are_the_models_own(name: str, needs: str, opened: Opened) -> None:
    backbone = opened(name, needs, packing="off")
    for row in reference.random_rows(len(backbone.embedding.weight)):
        ids_1T = torch.tensor([row["input_ids"]])
        mask_1T = torch.ones_like(ids_1T)
        hidden_1TD = backbone.trunk(input_ids=ids_1T, attention_mask=mask_1T).last_hidden_state
        found = head_logits(backbone.model, hidden_1TD, mask_1T)[0]
        torch.testing.assert_close(found, reference.alone(backbone, row["input_ids"]), rtol=0, atol=1e-6)


SMALL = {"vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 2, "dropout": 0.0}
WRAPPED: dict[str, dict[str, Any]] = {
    "opt": {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2},
    "mbart": {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 48},
    "trocr": {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 48},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "auto"), [*((name, "CausalLM") for name in WRAPPED), ("opt", "SequenceClassification")]
)
@torch.no_grad()
def test_a_decoder_that_is_all_of_its_trunk_is_answered_for(name: str, auto: str) -> None:
    """Their heads ask the decoder itself, or the trunk around it."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **SMALL, **WRAPPED[name])
    config.is_encoder_decoder, config.is_decoder = False, True
    model: Any = getattr(transformers, f"AutoModelFor{auto}").from_config(config).eval()
    ids_1T = torch.tensor([[30, 40, 50, 60]])
    hidden_1TD = model.base_model(input_ids=ids_1T).last_hidden_state
    found = head_logits(model, hidden_1TD, torch.ones_like(ids_1T))
    torch.testing.assert_close(found, model(input_ids=ids_1T).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("needs", ["tag_logits", "span_logits"])
@pytest.mark.parametrize("name", [*tiny.ENCODERS, *tiny.DECODERS])
@torch.no_grad()
def test_a_head_on_tokens_is_the_models_own(name: str, needs: str, opened: Opened) -> None:
    """On rows packed or padded together, as transformers gives them for each row alone."""
    if name in NO_HEAD_ON_TOKENS[needs]:
        with pytest.raises(Refused, match=needs.replace("_", " ")):
            opened(name, needs)
        return
    backbone = opened(name, needs)
    assert not [fresh for fresh in backbone.fresh if fresh.startswith(tuple(backbone.seams.blocks))]
    rows = reference.random_rows(len(backbone.embedding.weight))
    tensors = lay_out(rows, backbone.layout, 2)
    logits_NC = backbone.position_logits(backbone.hidden(Batch(tensors, [])))
    for row, start in zip(rows, tensors["starts"].tolist(), strict=True):
        ids_1T = torch.tensor([row["input_ids"]])
        with backbone.attention("sdpa"):
            output = backbone.model(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T))
        spans = needs == "span_logits"
        expected_TC = torch.stack([output.start_logits[0], output.end_logits[0]], -1) if spans else output.logits[0]
        found_TC = logits_NC[start : start + len(row["input_ids"])]
        torch.testing.assert_close(found_TC, expected_TC, rtol=0, atol=2e-5)


@pytest.mark.parametrize("needs", ["tag_logits", "span_logits"])
def test_an_encoder_decoder_has_no_head_on_tokens(needs: str, opened: Opened) -> None:
    with pytest.raises(Refused, match=r"model\.encoder-decoder"):
        opened("t5", needs)


@pytest.mark.parametrize("name", tiny.ENCODER_DECODERS)
@torch.no_grad()
def test_of_an_encoder_decoder_the_decoder_is_answered_for(name: str, opened: Opened) -> None:
    """Tied and scaled (T5), gated and untied (T5 1.1), with a bias of the logits (BART)."""
    backbone = opened(name, "token_logits")
    for row in reference.random_rows(len(backbone.embedding.weight)):
        ids_1S, target_1L = torch.tensor([row["input_ids"]]), torch.tensor([TARGET])
        batch = Batch({"input_ids": ids_1S, "attention_mask": torch.ones_like(ids_1S), "target_ids": target_1L}, [0])
        found = backbone.token_logits(backbone.hidden(batch))
        expected = reference.alone(backbone, row["input_ids"], TARGET)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    tied = backbone.model.get_output_embeddings().weight is backbone.embedding.weight
    assert tied == (name != "t5")


@pytest.mark.parametrize("name", tiny.ENCODER_DECODERS)
@torch.no_grad()
def test_an_encoder_decoder_classifies_by_the_last_end_of_text(name: str, opened: Opened) -> None:
    """Ragged rows in one batch, as each alone; one has the token inside too."""
    backbone = opened(name, "sequence_logits")
    rows = reference.random_rows(len(backbone.embedding.weight))
    for row in rows:
        row["input_ids"] = [*row["input_ids"], *row["input_ids"][:1], 1]
    rows[1]["input_ids"][3] = 1
    batch = reference.objective(backbone).collate(rows)
    found = backbone.sequence_logits(backbone.hidden(batch), batch)
    expected = torch.stack([reference.alone(backbone, row["input_ids"]) for row in rows])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", tiny.ENCODER_DECODERS)
@torch.no_grad()
def test_a_vector_of_a_text_comes_from_the_encoder_alone(name: str, opened: Opened) -> None:
    backbone = opened(name, "hidden")
    rows = reference.random_rows(len(backbone.embedding.weight))
    tensors = lay_out(rows, backbone.layout, 2)
    found = pool(backbone.hidden(Batch(tensors, [])), Batch(tensors, []), "mean")
    alone = [backbone.model.get_encoder()(input_ids=torch.tensor([row["input_ids"]])) for row in rows]
    expected = torch.stack([output.last_hidden_state[0].mean(0) for output in alone])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not backbone.causal


@pytest.mark.parametrize("name", [*tiny.ENCODERS, *tiny.DECODERS, *tiny.ENCODER_DECODERS])
def test_which_positions_a_classifier_reads(name: str, opened: Opened) -> None:
    assert opened(name, "sequence_logits", packing="off").reads == READS.get(name, "first")


@pytest.mark.parametrize("name", ["llama", "t5", "bart"])
def test_the_trunk_is_back_afterwards(name: str, opened: Opened) -> None:
    backbone = opened(name, "token_logits", packing="off")
    trunk, decoder = backbone.trunk, backbone.model.get_decoder()
    names = [name for name, _ in backbone.model.named_modules()]
    with pytest.raises(RuntimeError):
        head_logits(backbone.model, torch.zeros(1, 3, backbone.width + 1))
    assert backbone.trunk is trunk
    assert backbone.model.get_decoder() is decoder
    assert [name for name, _ in backbone.model.named_modules()] == names
