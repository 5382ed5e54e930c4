"""Preference losses and their gradients against TRL's trainers (recorded), on the same weights and rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.engine.accumulate import loss_of
from luthier.models.backbone import Backbone
from luthier.models.frozen import Frozen
from luthier.objectives import OBJECTIVES
from luthier.objectives.preference import REFERENCE
from luthier.types import Features

HERE = Path(__file__).parent / "preferences"
sys.path.append(str(HERE))
import small  # noqa: E402

import tiny  # noqa: E402

RECORDED = json.loads((HERE / "fixtures.json").read_text(encoding="utf-8"))
CASES = {case["case"]: case for case in RECORDED["cases"]}
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("dpo", {"beta": 0.3}),
    "dpo-robust": ("dpo", {"beta": 0.3, "label_smoothing": 0.2, "robust": True}),
    "dpo-normalized": ("dpo", {"beta": 2.0, "length_normalized": True}),
    "ipo": ("ipo", {"beta": 0.3}),
    "cpo": ("cpo", {"beta": 0.3, "label_smoothing": 0.1, "likelihood": 0.7}),
    "simpo": ("simpo", {"beta": 2.0, "gamma": 0.8}),
    "orpo": ("orpo", {"beta": 0.4}),
    "reward": ("bradley_terry", {"margin": 1.0, "centering": 0.1}),
    "kto": ("kto", {"beta": 0.3, "desirable": 1.5, "undesirable": 0.5}),
}


def backbone(seed: int, needs: str, packing: str) -> Backbone:
    made = Backbone(
        small.build(seed, scores=needs != "token_logits"), tiny.tokenizer(encoder=False), "small", "", needs
    )
    made.choose_layout(packing)
    return made


def features(case: dict[str, Any]) -> list[Features]:
    """The recorded sequences as rows of ours."""
    rows = []
    for at, (first, second, *more) in enumerate(case["rows"]):
        row: Features = {"row": at, "weight": 1.0, "lengths": [len(first["input_ids"]), len(second["input_ids"])]}
        row |= {key: first[key] + second[key] for key in ("input_ids", "supervised")}
        if case["case"] == "kto":
            row["liked"] = more[0]
        elif more:
            row["margin"] = more[0]
        rows.append(row)
    return rows


def assert_same(case: dict[str, Any], policy: Backbone, objective: Any, rows: list[Features]) -> None:
    """Loss and every gradient, the mean over rows, to 1e-5 of the largest number in it."""
    terms, _ = loss_of(policy, objective, rows, "fp32")
    loss = terms.total / terms.count
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    named = dict(policy.model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()))
    for (name, _), gradient in zip(named.items(), found, strict=True):
        if name in case["norms"]:
            assert gradient.norm().item() == pytest.approx(case["norms"][name], rel=1e-5), name
        else:
            expected = torch.tensor(case["gradients"][name])
            bound = 1e-5 * max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=bound, msg=name)


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("known", [True, False], ids=["reference known before", "reference asked"])
@pytest.mark.parametrize("name", OURS)
def test_value_and_gradient_are_those_of_trl(name: str, known: bool, packing: str) -> None:
    kind, options = OURS[name]
    module, case = OBJECTIVES.load(kind), CASES[name]
    policy, reference = (backbone(seed, module.Objective.needs, packing) for seed in (0, 1))
    objective = module.Objective(module.Options(**options), policy, None)
    rows, compares = features(case), name != "reward" and module.Objective.compares
    if compares and known:
        with torch.no_grad():
            made = objective.reader.outputs(reference, objective.reader.collate(rows))
        rows = [row | {REFERENCE: logs} for row, logs in zip(rows, made, strict=True)]
    elif compares:
        objective.reference = Frozen(reference, "reference", "")
    assert_same(case, policy, objective, rows)


def test_smoothed_labels_follow_from_what_trl_has() -> None:
    """TRL 1.16 smooths no labels of its `sigmoid`. With L the loss and M that of the other order, recorded are L and
    R = ((1 - ε) L - ε M) / (1 - 2ε), so that (1 - ε) L + ε M = 2 (1 - ε) L - (1 - 2ε) R, and so of each gradient."""
    plain, robust, noise = CASES["dpo"], CASES["dpo-robust"], 0.2
    assert plain["rows"] == robust["rows"]

    def smoothed(of_plain: Any, of_robust: Any) -> torch.Tensor:
        return 2 * (1 - noise) * torch.tensor(of_plain) - (1 - 2 * noise) * torch.tensor(of_robust)

    module = OBJECTIVES.load("dpo")
    policy, reference = (backbone(seed, "token_logits", "auto") for seed in (0, 1))
    objective = module.Objective(module.Options(beta=0.3, label_smoothing=noise), policy, None)
    objective.reference = Frozen(reference, "reference", "")
    terms, _ = loss_of(policy, objective, features(plain), "fp32")
    loss = terms.total / terms.count
    torch.testing.assert_close(loss.detach(), smoothed(plain["loss"], robust["loss"]), rtol=1e-5, atol=0)
    loss.backward()
    for name, parameter in policy.model.named_parameters():
        if name in plain["gradients"]:
            expected = smoothed(plain["gradients"][name], robust["gradients"][name])
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-5, msg=name)
