"""Loss and gradient of a process reward model against TRL's trainer (recorded), on the same weights and rows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_preference_losses import HERE, assert_same, backbone

from luthier.objectives import OBJECTIVES

CASE: dict[str, Any] = json.loads((HERE / "steps.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("packing", ["auto", "off"])
def test_value_and_gradient_are_those_of_trl(packing: str) -> None:
    module = OBJECTIVES.load("stepwise")
    model = backbone(0, "sequence_logits", packing)
    rows = [
        {
            "row": at, "weight": 1.0, "input_ids": row["input_ids"], "lengths": [len(row["input_ids"])],
            "step_at": [place for place, _ in row["judged"]], "step_labels": [float(told) for _, told in row["judged"]],
        }
        for at, row in enumerate(CASE["rows"])
    ]  # fmt: skip
    assert_same(CASE, model, module.Objective(module.Options(), model, None), rows)
