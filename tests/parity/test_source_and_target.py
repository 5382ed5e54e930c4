"""Encoder-decoders against transformers: the loss of ``labels=``, and ``generate`` on one source at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import reference
import torch
from torch import Tensor

import tiny
from luthier.data.collate import lay_out
from luthier.evaluate.generate import generate
from luthier.models.backbone import Backbone
from luthier.objectives import chunked
from luthier.types import Batch, Features

Opened = Callable[..., Backbone]
EOS, PAD = 1, 2


def ragged(vocabulary: int) -> list[Features]:
    """Sources of 5, 17, 2, 11 and 9 tokens with targets of 9, 5, 17, 2 and 11, all of weight 1."""
    rows = reference.random_rows(vocabulary)
    others = [row["input_ids"] for row in reference.random_rows(vocabulary, seed=1)]
    targets = [others[at - 1] for at in range(len(rows))]
    return [
        {"row": row["row"], "input_ids": row["input_ids"], "target_ids": target, "weight": 1.0}
        for row, target in zip(rows, targets, strict=True)
    ]


def theirs(backbone: Backbone, rows: list[Features]) -> Tensor:
    """Σ over target tokens: transformers' mean over labels that are not -100, times their number."""
    source = lay_out([{"input_ids": row["input_ids"]} for row in rows], "padded", PAD)
    target = lay_out([{"input_ids": row["target_ids"]} for row in rows], "padded", -100)["input_ids"]
    loss = backbone.model(
        input_ids=source["input_ids"], attention_mask=source["attention_mask"], labels=target
    ).loss  # fmt: skip
    return loss * (target != -100).sum()


@pytest.mark.parametrize("chunk", [None, 1], ids=["whole", "in chunks"])
@pytest.mark.parametrize("name", tiny.ENCODER_DECODERS)
def test_the_loss_is_that_of_labels(
    name: str, chunk: int | None, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and every gradient, on ragged rows in one padded batch. With chunks of 16 positions too."""
    monkeypatch.setattr(chunked, "CHUNK", chunk or chunked.CHUNK)
    backbone = opened(name, "token_logits")
    assert backbone.layout == "padded"
    assert backbone.unpacked_because
    assert backbone.causal
    rows = ragged(len(backbone.embedding.weight))
    expected = theirs(backbone, rows)
    expected_gradients = reference.gradients(backbone, expected)
    objective = reference.objective(backbone)
    terms = objective.loss(backbone, objective.collate(rows))
    assert terms.count == sum(len(row["target_ids"]) for row in rows)
    torch.testing.assert_close(terms.total, expected.detach(), rtol=1e-6, atol=1e-6)
    reference.assert_same_gradients(reference.gradients(backbone, terms.total), expected_gradients)


@pytest.mark.parametrize("name", tiny.ENCODER_DECODERS)
@torch.no_grad()
def test_a_row_has_the_same_loss_in_any_company(name: str, opened: Opened) -> None:
    backbone = opened(name, "token_logits")
    rows = ragged(len(backbone.embedding.weight))
    objective = reference.objective(backbone)
    together = objective.outputs(backbone, objective.collate(rows))
    for row, found in zip(rows, together, strict=True):
        (alone,) = objective.outputs(backbone, objective.collate([row]))
        assert found["nll"] == pytest.approx(alone["nll"], rel=1e-5)
        assert (found["tokens"], found["right"]) == (alone["tokens"], alone["right"])


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", tiny.ENCODER_DECODERS)
def test_sources_answered_together_are_answered_as_each_alone(name: str, beams: int, opened: Opened) -> None:
    backbone = opened(name, "token_logits")
    sources = [row["input_ids"] for row in ragged(len(backbone.embedding.weight))]
    together = generate(backbone, sources, max_new_tokens=8, num_beams=beams)
    assert len({tuple(answer) for answer in together}) > 1
    model: Any = backbone.model
    for ids, found in zip(sources, together, strict=True):
        grown = model.generate(torch.tensor([ids]), max_new_tokens=8, num_beams=beams, do_sample=False)
        expected = grown[0, 1:].tolist()
        assert found == (expected[: expected.index(EOS)] if EOS in expected else expected)


@pytest.mark.parametrize("name", tiny.ENCODER_DECODERS)
@torch.no_grad()
def test_a_model_that_writes_gives_vectors_by_its_encoder_too(name: str, opened: Opened) -> None:
    writer, reader = opened(name, "token_logits"), opened(name, "hidden", packing="off")
    tensors = lay_out([{"input_ids": row["input_ids"]} for row in ragged(300)], "padded", PAD)
    batch = Batch(tensors, [])
    alone = replace(writer, needs="hidden")
    torch.testing.assert_close(alone.hidden(batch), reader.hidden(batch), rtol=0, atol=0)
    assert not alone.causal
