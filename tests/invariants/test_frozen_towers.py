"""What frozen towers make is computed once: the losses and weights of the run in which it is computed at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import records
from safetensors.torch import load_file

import luthier
import tiny
from luthier.models.joined.composed import ComposedModel
from luthier.runs import training

PROJECTOR = {"full": {}, "learning_rate": 1e-2}


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    rows = []
    for i in range(18):
        at, text = i % 6, "the cat and " * (1 + i // 6)
        tiny.save_picture(tmp_path / f"{at}.png", ("red", "green")[at % 2], seed=at)
        rows.append({"image": f"{at}.png", "label": ("red", "green")[at % 2], "text": text})
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    vit, bert = tiny.save_image_model("vit", tmp_path / "vit"), tiny.save("bert", tmp_path / "bert", **still)
    return {
        "task": "classify", "model": {"image": vit, "text": bert}, "out": str(tmp_path / "runs"), "steps": 6,
        "data": {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", rows), "eval": 0.0}, "batch_size": 8,
        "final": "last",
    }  # fmt: skip


CASES = [
    ("concatenation", {"vision": "frozen", "text": "frozen", "projector": PROJECTOR}, {"vision": 6, "text": 3}),
    ({"cross_attention": {"dropout": 0.0}}, {"projector": PROJECTOR}, {"vision": 6, "text": 3}),
    ("modulation", {"projector": PROJECTOR}, {"vision": 6, "text": 3}),
    ("concatenation", {"vision": "frozen", "text": "lora"}, {"vision": 6}),
    ("concatenation", {"vision": {"lora": {"rank": 2}}, "text": "frozen"}, {"text": 3}),
    ("projection", {"vision": "frozen", "text": "frozen", "projector": PROJECTOR}, {"vision": 6}),
]  # fmt: skip


@pytest.mark.parametrize(("fuse", "method", "known"), CASES)
def test_once_and_at_every_step_are_the_same_run(
    fuse: Any, method: Any, known: dict[str, int], recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six pictures and three texts are read once each by a tower that does not train."""
    recipe["model"]["fuse"] = fuse
    seen: list[int] = []
    pictures = ComposedModel.pictures
    monkeypatch.setattr(ComposedModel, "pictures", lambda self, x: (seen.append(len(x)), pictures(self, x))[1])
    found = {}
    for name in ("once", "each"):
        if name == "each":
            monkeypatch.setattr(training, "still_towers", lambda prepared: set())
        seen.clear()
        run = luthier.tune(**recipe, method=method, name=name)
        losses = [record["loss"] for record in records(run.folder) if record["kind"] == "train"]
        weights = {str(p.relative_to(run.folder)): load_file(p) for p in run.folder.rglob("adapter_model.safetensors")}
        found[name] = losses, weights, sum(seen)
    assert found["once"][0] == pytest.approx(found["each"][0], rel=1e-5)
    for file, tensors in found["each"][1].items():
        for name, tensor in tensors.items():
            assert (found["once"][1][file][name] - tensor).abs().max() < 1e-4, name
    assert (found["once"][2] < found["each"][2]) == ("vision" in known)
