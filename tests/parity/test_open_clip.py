"""The losses of pictures and texts, and their gradients, as open_clip's (recorded by openclip/record.py), within 1e-6.

Axes: K pairs, D width, U vectors.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from luthier.objectives.image_text import Objective, Options

TOLD = json.loads((Path(__file__).parent / "openclip" / "fixtures.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", TOLD["cases"])
def test_loss_and_gradients_are_open_clips(case: str) -> None:
    told = TOLD["cases"][case]
    objective = Objective.__new__(Objective)
    objective.options = Options()
    objective.scale_parameter = torch.nn.Parameter(torch.tensor(math.log(told["scale"])))
    objective.bias = None if told["bias"] is None else torch.nn.Parameter(torch.tensor(told["bias"]))
    learned = {"logit_scale": objective.scale_parameter}
    learned |= {} if objective.bias is None else {"logit_bias": objective.bias}
    objective.parameters = learned
    leaves = {name: torch.tensor(TOLD[name]).requires_grad_() for name in ("images", "texts")}
    rows = [{"keys": [2 * k, 2 * k + 1], "weight": 1.0, "pictures": ["p"]} for k in range(len(TOLD["images"]))]
    vectors_UD = torch.stack([F.normalize(leaf, dim=-1) for leaf in leaves.values()], dim=1).flatten(0, 1)
    terms = objective.coupled_loss(vectors_UD, rows)
    mean = terms.total / terms.count
    mean.backward()
    assert float(mean.detach()) == pytest.approx(told["loss"], rel=1e-6)
    gradients = {name: leaf.grad for name, leaf in {**leaves, **learned}.items()}
    assert gradients.keys() == told["gradients"].keys()
    for name, found in gradients.items():
        assert found is not None
        expected = torch.tensor(told["gradients"][name])
        assert (found - expected).norm() <= 1e-6 * expected.norm(), name
