"""The plain way: transformers' own forward, one row at a time, and torch's cross-entropy.

Axes: T tokens of a row, V vocabulary, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.models.backbone import Backbone
from luthier.objectives import classification, next_token
from luthier.types import Features

LENGTHS = (5, 17, 2, 11, 9)  # some longer than the sliding window of 8


def random_rows(vocabulary: int, seed: int = 0, classes: int = 3) -> list[Features]:
    """Ragged rows of ids (no special token among them); every other token is supervised; a class each."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for at, length in enumerate(LENGTHS):
        ids = torch.randint(8, vocabulary, (length,), generator=draw).tolist()
        supervised = [t % 2 == 1 for t in range(length)]
        rows.append({"row": at, "input_ids": ids, "supervised": supervised, "target": at % classes, "weight": 1.0 + at})
    return rows


def objective(backbone: Backbone) -> Any:
    module = next_token if backbone.needs == "token_logits" else classification
    return module.Objective(module.Options(), backbone, lambda example: [])


def alone(backbone: Backbone, ids: list[int], target: list[int] | None = None) -> Tensor:
    """(T, V) or (C,): transformers' own attention and head, no padding. ``target``: of an encoder-decoder."""
    with backbone.attention("sdpa"):
        inputs = torch.tensor([ids])
        more = {} if target is None else {"labels": torch.tensor([target])}
        return backbone.model(input_ids=inputs, attention_mask=torch.ones_like(inputs), **more).logits[0]


def loss_of(backbone: Backbone, rows: list[Features]) -> Tensor:
    """Σ weight · cross-entropy: over supervised tokens t, each predicted at t - 1, or over rows."""
    total = torch.zeros(())
    for row in rows:
        logits = alone(backbone, row["input_ids"])
        if backbone.needs == "sequence_logits":
            total = total + row["weight"] * F.cross_entropy(logits[None], torch.tensor([row["target"]]))
            continue
        for t, supervised in enumerate(row["supervised"]):
            if supervised:
                total = total + row["weight"] * F.cross_entropy(logits[t - 1], torch.tensor(row["input_ids"][t]))
    return total


def gradients(backbone: Backbone, loss: Tensor) -> dict[str, Tensor]:
    """Of every parameter; one that the loss does not reach has zeros."""
    backbone.model.zero_grad(set_to_none=True)
    loss.backward()
    named = backbone.model.named_parameters()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], bound: float = 1e-5) -> None:
    """The largest difference, relative to the largest gradient of all."""
    assert found.keys() == expected.keys()
    largest = max(float(grad.abs().max()) for grad in expected.values())
    assert largest > 0
    worst = {name: float((found[name] - expected[name]).abs().max()) / largest for name in expected}
    name = max(worst, key=lambda key: worst[key])
    assert worst[name] <= bound, f"{name}: {worst[name]:.1e}"
