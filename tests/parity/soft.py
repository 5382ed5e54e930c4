"""Backbones with a soft prompt or a prefix, as if trained, and what they give.

Axes: T tokens of a row, V vocabulary, C classes.
"""

from __future__ import annotations

from typing import Any

import reference
import torch
from torch import Tensor

from luthier.data.collate import lay_out
from luthier.methods import prefix, prompt
from luthier.models.backbone import Backbone
from luthier.types import Adaptation, Batch, Features

LENGTH = 4
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "prompt": (prompt, {}),
    "prompt, mlp": (prompt, {"encoder": "mlp"}),
    "prompt, lstm": (prompt, {"encoder": "lstm", "hidden": 8}),
    "prefix": (prefix, {"hidden": 16}),
    "prefix, no projection": (prefix, {"projection": False}),
}
ONE_OF_EACH = ("prompt", "prefix")


def adapted(backbone: Backbone, case: str) -> Adaptation:
    """The method on the backbone; every number that trains has moved."""
    module, options = CASES[case]
    torch.manual_seed(1)
    adaptation = module.adapt(backbone, module.Options(num_virtual_tokens=LENGTH, **options))
    with torch.no_grad():
        for parameter in adaptation.parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return adaptation


def outputs(backbone: Backbone, rows: list[Features], layout: str = "", side: str = "right") -> list[Tensor]:
    """(C,) or (T, V) of each row, all rows in one batch."""
    tensors = lay_out(rows, layout or backbone.layout, 2, side)
    batch = Batch(tensors, [])
    hidden_TD = backbone.hidden(batch)
    if backbone.needs == "sequence_logits":
        return list(backbone.sequence_logits(hidden_TD, batch))
    logits_TV = backbone.token_logits(hidden_TD)
    places = zip(tensors["starts"].tolist(), tensors["lengths"].tolist(), strict=True)
    return [logits_TV[start : start + length] for start, length in places]


def rows_for(backbone: Backbone) -> list[Features]:
    return reference.random_rows(len(backbone.embedding.weight))


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
