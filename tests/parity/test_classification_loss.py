"""Our loss of a batch of ragged rows is the loss that transformers gives for the same rows and labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch

from luthier.models.backbone import Backbone
from luthier.objectives import classification, multi_label, regression

Opened = Callable[..., Backbone]
KINDS: dict[str, tuple[Any, str, list[Any]]] = {
    "single": (classification, "single_label_classification", [0, 2, 1, 1, 0]),
    "multi": (multi_label, "multi_label_classification", [[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]]),
    "regression": (regression, "regression", [0.5, -1.0, 2.0, 0.0, 3.5]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert", "modernbert-mean", "deberta-v2", "distilbert", "gpt2", "llama", "gemma2"])
@torch.no_grad()
def test_loss_is_that_of_transformers(name: str, kind: str, opened: Opened) -> None:
    """transformers takes the mean over rows (and classes); ours is a sum and its count."""
    module, problem, targets = KINDS[kind]
    backbone = opened(name, "sequence_logits", labels=1 if kind == "regression" else 3)
    rows = reference.random_rows(len(backbone.embedding.weight))
    rows = [row | {"target": target, "weight": 1.0} for row, target in zip(rows, targets, strict=True)]
    objective = module.Objective(module.Options(), backbone, lambda example: [])
    terms = objective.loss(backbone, objective.collate(rows))
    expected = _plain_loss(backbone, rows, problem)
    torch.testing.assert_close(terms.total / terms.count, expected, rtol=1e-5, atol=1e-6)


def _plain_loss(backbone: Backbone, rows: list[Any], problem: str) -> torch.Tensor:
    """transformers' ``forward(labels=...)`` on right-padded rows."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row["input_ids"]) for row in rows], True, 2.0)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row["input_ids"])) for row in rows], True)
    kind = torch.long if problem.startswith("single") else torch.float32
    labels = torch.tensor([row["target"] for row in rows], dtype=kind)
    backbone.model.config.problem_type = problem
    with backbone.attention("sdpa"):
        return backbone.model(input_ids=ids, attention_mask=mask.long(), labels=labels).loss
