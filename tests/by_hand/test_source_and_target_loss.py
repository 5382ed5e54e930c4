"""The loss of targets that are written from sources: the number derived by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from luthier.data.collate import lay_out
from luthier.engine.accumulate import size
from luthier.objectives.next_token import Objective, Options
from luthier.types import Batch, Features

ROWS = [
    {"row": 0, "input_ids": [5, 6, 7], "target_ids": [1, 0], "weight": 1.0},
    {"row": 1, "input_ids": [8], "target_ids": [1], "weight": 2.0},
]


class _Decoder:
    """Gives logits of a vocabulary of two as hidden states, for two rows padded to two target tokens."""

    layout = "padded"
    tokenizer = SimpleNamespace(pad_token_id=0)

    def __init__(self) -> None:
        head = nn.Linear(2, 2, bias=False)
        self.model = SimpleNamespace(get_output_embeddings=lambda: head)

    def lay_out(self, rows: list[Features]) -> dict[str, torch.Tensor]:
        return lay_out(rows, "padded")

    def hidden(self, batch: Batch) -> torch.Tensor:
        assert batch["target_ids"].tolist() == [[1, 0], [1, 0]]
        return torch.tensor([[0, math.log(3)], [math.log(4), 0], [0, 0], [9, 9]])

    def token_logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        return hidden_ND


def test_loss_of_two_rows() -> None:
    """Position t predicts target token t, so of the first row p(1) = 3/4, then p(0) = 4/5; of the second p(1) = 1/2.

    L = -ln(3/4) - ln(4/5) - 2 ln(1/2) = ln(4/3 · 5/4 · 4) = ln(20/3); the count is 1 + 1 + 2. The last position is a
    pad, and reaches nothing.
    """
    decoder: Any = _Decoder()
    objective = Objective(Options(), decoder, lambda example: [])
    batch = objective.collate(ROWS)
    terms = objective.loss(decoder, batch)
    assert float(terms.total) == pytest.approx(math.log(20 / 3))
    assert terms.count == 4
    assert [objective.units(row) for row in ROWS] == [2, 1]
    first, second = objective.outputs(decoder, batch)
    assert first["nll"] == pytest.approx(math.log(5 / 3))
    assert (first["tokens"], first["right"], second["tokens"]) == (2, 2, 1)


def test_tokens_of_source_and_target_are_counted() -> None:
    """Three and two, one and one."""
    decoder: Any = _Decoder()
    assert [size(row) for row in ROWS] == [5, 2]
    assert Objective(Options(), decoder, None).collate(ROWS).tokens == 7


def test_the_source_is_padded_apart_from_the_target() -> None:
    decoder: Any = _Decoder()
    batch = Objective(Options(), decoder, None).collate(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["predict_at"].tolist() == [0, 1, 2]
    assert batch["targets"].tolist() == [1, 0, 1]
