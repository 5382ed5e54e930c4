"""Rows laid end to end give what each gives alone: logits, loss, gradients; and no row sees another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import reference
import torch
from torch import Tensor

import tiny
from luthier.data.collate import lay_out
from luthier.models.attention import _each, _padded
from luthier.models.backbone import Backbone
from luthier.types import Batch

PACKABLE = [name for name in (*tiny.ENCODERS, *tiny.DECODERS) if name != "deberta-v2"]
CASES = [(name, "sequence_logits") for name in PACKABLE] + [(name, "token_logits") for name in tiny.DECODERS]
Opened = Callable[..., Backbone]


@pytest.mark.parametrize(("name", "needs"), CASES)
def test_packed_rows_are_separate_rows(name: str, needs: str, opened: Opened) -> None:
    backbone = opened(name, needs)
    assert backbone.layout == "packed"
    rows = reference.random_rows(len(backbone.embedding.weight))
    objective = reference.objective(backbone)
    expected = reference.loss_of(backbone, rows)
    expected_gradients = reference.gradients(backbone, expected)
    terms = objective.loss(backbone, objective.collate(rows))
    torch.testing.assert_close(terms.total, expected.detach(), rtol=1e-5, atol=1e-5)
    reference.assert_same_gradients(reference.gradients(backbone, terms.total), expected_gradients)


@pytest.mark.parametrize(("name", "needs"), CASES)
@torch.no_grad()
def test_packed_logits_are_those_of_each_row_alone(name: str, needs: str, opened: Opened) -> None:
    backbone = opened(name, needs)
    rows = reference.random_rows(len(backbone.embedding.weight))
    for found, row in zip(_logits(backbone, rows), rows, strict=True):
        torch.testing.assert_close(found, reference.alone(backbone, row["input_ids"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PACKABLE)
@torch.no_grad()
def test_changing_one_row_changes_no_other(name: str, opened: Opened) -> None:
    """Bit for bit: the same row in the same place of another company."""
    backbone = opened(name, "hidden")
    rows = reference.random_rows(len(backbone.embedding.weight), seed=0)
    others = reference.random_rows(len(backbone.embedding.weight), seed=1)
    kept = 1
    mixed = [row if at == kept else others[at] for at, row in enumerate(rows)]
    a, b = (_hidden(backbone, given) for given in (rows, mixed))
    assert torch.equal(a[kept], b[kept])
    assert all(not torch.equal(a[at], b[at]) for at in range(len(rows)) if at != kept)


def test_a_model_that_packed_rows_confuse_is_padded_and_says_why(opened: Opened) -> None:
    """DeBERTa's relative positions are counted over the whole row, so it is measured unfit and padded."""
    backbone = opened("deberta-v2", "sequence_logits")
    assert backbone.layout == "padded"
    assert "differ" in backbone.unpacked_because
    assert opened("llama", "token_logits", packing="off").unpacked_because == "turned off"


@pytest.mark.parametrize("name", tiny.ENCODERS)
def test_padded_rows_are_separate_rows(name: str, opened: Opened) -> None:
    backbone = opened(name, "sequence_logits", packing="off")
    rows = reference.random_rows(len(backbone.embedding.weight))
    objective = reference.objective(backbone)
    expected = reference.gradients(backbone, reference.loss_of(backbone, rows))
    terms = objective.loss(backbone, objective.collate(rows))
    reference.assert_same_gradients(reference.gradients(backbone, terms.total), expected)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("causal", [True, False])
def test_one_launch_for_all_rows_is_one_for_each(causal: bool, window: int | None) -> None:
    """The attention that GPUs take and the one that CPUs take, with their gradients. Axes as in the module."""
    lengths, draw = [3, 9, 1, 6], torch.Generator().manual_seed(0)
    shape = (1, 2, sum(lengths), 8)
    inputs = [torch.randn(shape, generator=draw, requires_grad=True) for _ in range(3)]
    each = _each(*inputs, lengths, 0.3, causal, window, 0.0)
    padded = _padded(*inputs, lengths, 0.3, causal, window, None, 0.0)
    torch.testing.assert_close(padded, each, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(each.shape, generator=draw)
    for a, b in zip(torch.autograd.grad(padded, inputs, upstream), torch.autograd.grad(each, inputs, upstream),
                    strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def _hidden(backbone: Backbone, rows: list[dict]) -> list[Tensor]:
    """(length, D) of each row."""
    tensors = lay_out(rows, backbone.layout, 2)
    hidden_TD = backbone.hidden(Batch(tensors, []))
    places = zip(tensors["starts"].tolist(), tensors["lengths"].tolist(), strict=True)
    return [hidden_TD[start : start + length] for start, length in places]


def _logits(backbone: Backbone, rows: list[dict]) -> list[Tensor]:
    batch = reference.objective(backbone).collate(rows)
    if backbone.needs == "sequence_logits":
        return list(backbone.sequence_logits(backbone.hidden(batch), batch))
    return [backbone.token_logits(hidden_TD) for hidden_TD in _hidden(backbone, rows)]
