"""Preferences about pictures: losses and gradients against TRL's trainers (recorded), on the same weights, pictures and
rows; every loss against the family's own forward."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.engine.accumulate import loss_of
from luthier.models.backbone import Backbone
from luthier.models.frozen import Frozen
from luthier.models.load import load
from luthier.models.vision.vision_language import VisionLanguageBackbone
from luthier.objectives import OBJECTIVES
from luthier.objectives.preference import REFERENCE
from luthier.types import Features

HERE = Path(__file__).parent / "preferences"
sys.path.append(str(HERE))
import seer  # noqa: E402

CASES = {case["case"]: case for case in json.loads((HERE / "shown.json").read_text(encoding="utf-8"))["cases"]}
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("dpo", {"beta": 0.3}),
    "dpo-normalized": ("dpo", {"beta": 2.0, "length_normalized": True}),
    "ipo": ("ipo", {"beta": 0.3}),
    "kto": ("kto", {"beta": 0.3, "desirable": 1.5, "undesirable": 0.5}),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Backbone]:
    """The recorded models, by seed: read from a folder, as any is."""
    folders = {seed: tmp_path_factory.mktemp(f"seer{seed}") for seed in (0, 1)}
    for seed, folder in folders.items():
        seer.build(seed).save_pretrained(folder)
        seer.processor().save_pretrained(folder)

    def model(seed: int) -> Backbone:
        made = load("seer", str(folders[seed]), "token_logits")
        assert isinstance(made, VisionLanguageBackbone)
        made.model.eval()
        made.choose_layout("auto")
        return made

    return model


def features(case: dict[str, Any], backbone: Any) -> list[Features]:
    """The recorded sequences as rows of ours, each with its pictures, which are as many tokens as were recorded."""
    rows = []
    for at, ((first, second, *more), shown) in enumerate(zip(case["rows"], case["shown"], strict=True)):
        keys = [backbone.pictures.key(seer.picture(number)) for number in shown]
        places = [token for key in keys for token in backbone.places(key)]
        assert places == [token for token in first["input_ids"] if token == backbone.image_id]
        row: Features = {"row": at, "weight": 1.0, "lengths": [len(first["input_ids"]), len(second["input_ids"])]}
        row |= {key: first[key] + second[key] for key in ("input_ids", "supervised")}
        rows.append(row | {"pictures": keys} | ({"liked": more[0]} if more else {}))
    return rows


@pytest.mark.parametrize("known", [True, False], ids=["reference known before", "reference asked"])
@pytest.mark.parametrize("name", OURS)
def test_value_and_gradient_are_those_of_trl(name: str, known: bool, opened: Callable[[int], Backbone]) -> None:
    """Of the tower that sees and of what joins it too."""
    kind, options = OURS[name]
    module, case = OBJECTIVES.load(kind), CASES[name]
    policy, reference = opened(0), opened(1)
    objective = module.Objective(module.Options(**options), policy, None)
    rows = features(case, policy)
    features(case, reference)  # it reads the pictures as well
    if known:
        with torch.no_grad():
            made = objective.reader.outputs(reference, objective.reader.collate(rows))
        rows = [row | {REFERENCE: logs} for row, logs in zip(rows, made, strict=True)]
    else:
        objective.reference = Frozen(reference, "reference", "")
    terms, _ = loss_of(policy, objective, rows, "fp32")
    loss = terms.total / terms.count
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    loss.backward()
    named = {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}
    assert named.keys() == {*case["gradients"], *case["norms"]}
    assert any("vision" in name for name in named)
    for parameter, gradient in named.items():
        if parameter in case["norms"]:
            assert gradient.norm().item() == pytest.approx(case["norms"][parameter], rel=1e-5), parameter
        else:
            expected = torch.tensor(case["gradients"][parameter])
            bound = 1e-5 * max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=bound, msg=parameter)
