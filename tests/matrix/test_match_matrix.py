"""Every method on models that match pictures with texts, pretrained and joined from two towers: it runs, learns, trains
only what was chosen and opens again the same in a fresh process, or is refused with the reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from battery import cases
from safetensors.torch import load_file
from table import METHODS

import luthier
import tiny
from luthier.types import Refused

STEPS = 30
MODELS = ("clip", "siglip", "towers")
BUILDS_ON_OTHERS = ("adapter: stack", "fusion")


def refusal(model: str, method: str) -> str | None:
    family = method.partition(":")[0]
    if family == "features":
        return "method.combination"  # it fits a classifier
    if "prompt" in method:
        return "method.no-target"  # it would stand before one side's rows alone
    if method == "freeze: head" and model == "siglip":
        return "method.no-target"  # nothing is projected
    return None


CELLS = [(model, method) for model in MODELS for method in METHODS if method not in BUILDS_ON_OTHERS]
DEFAULT = {
    ("clip", "full"), ("clip", "lora"), ("clip", "prefix"), ("clip", "freeze: head"), ("clip", "prompt"),
    ("siglip", "lora: dora"), ("siglip", "freeze: head"), ("siglip", "features: logistic"), ("towers", "freeze: head"),
    ("towers", "adapter: houlsby"), ("towers", "prefix"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a coloured patch with two captions that name the colour."""
    made = tmp_path_factory.mktemp("pictures")
    rows = []
    for i in range(40):
        colour = ("red", "green", "blue")[i % 3]
        tiny.save_picture(made / "images" / f"{i}.png", colour, seed=i)
        captions = [f"the {colour} {tiny.WORDS[3 + i % 8]}", f"{colour} and {tiny.WORDS[3 + i % 5]} {i}"]
        rows.append({"image": f"images/{i}.png", "captions": captions})
    tiny.write_jsonl(made / "train.jsonl", rows[8:])
    tiny.write_jsonl(made / "eval.jsonl", rows[:8])
    return made


@pytest.fixture(scope="module")
def models(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = tmp_path_factory.mktemp("models")
    text = tiny_folder("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    towers = {"image": tiny.save_image_model("vit", made / "vit"), "text": text, "fuse": "similarity"}
    return {kind: tiny.save_dual_model(kind, made / kind) for kind in tiny.DUAL_MODELS} | {"towers": towers}


@pytest.fixture(scope="module")
def finished() -> dict[str, luthier.Run]:
    """The runs of the cells that worked."""
    return {}


def recipe(model: str, method: str, models: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    data = {"train": str(folder / "train.jsonl"), "eval": str(folder / "eval.jsonl")}
    return {
        "task": "match", "model": models[model], "data": data, "out": str(out), "steps": STEPS, "batch_size": 32,
        "eval_every": STEPS, "final": "last", "schedule": "constant", "warmup": 0, **METHODS[method],
    }  # fmt: skip


@pytest.mark.parametrize(("model", "method"), cases(CELLS, DEFAULT, refusal, wanted=False))
def test_a_working_cell(
    model: str, method: str, models: dict[str, Any], folder: Path, finished: dict[str, luthier.Run], tmp_path: Path
) -> None:
    run = luthier.tune(**recipe(model, method, models, folder, tmp_path))
    final = run.folder / "final"
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5]), losses
    if (final / "adapter_config.json").is_file():
        marks = ("lora_", "ia3_", "vera_", "oft_", ".adapter", "prompt_embeddings", "fusion")
        names = load_file(final / "adapter_model.safetensors")
        assert all(any(mark in name for mark in marks) for name in names), list(names)[:5]
    assert "logit_scale" in load_file(final / "objective.safetensors")
    finished[f"{model}, {method}"] = run


def test_what_working_cells_made_opens_again(finished: dict[str, luthier.Run], folder: Path) -> None:
    """In one fresh process, all that ran above: the metrics of each are what they were."""
    if not finished:
        pytest.skip("no working cell ran")
    script = "import luthier, json, sys\nfor folder in sys.argv[2:]:\n    "
    script += "print(json.dumps(luthier.load(folder).evaluate(sys.argv[1])['metrics']))"
    runs = [str(run.folder) for run in finished.values()]
    command = [sys.executable, "-c", script, str(folder / "eval.jsonl"), *runs]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (cell, run), line in zip(finished.items(), done.stdout.splitlines()[-len(runs) :], strict=True):
        found = json.loads(line)
        for name, expected in run.result["after"].items():
            assert found[name]["value"] == pytest.approx(expected["value"], rel=1e-4, abs=1e-5), (cell, name)


@pytest.mark.parametrize(("model", "method"), cases(CELLS, DEFAULT, refusal, wanted=True))
def test_a_refused_cell(model: str, method: str, models: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        luthier.tune(**recipe(model, method, models, folder, tmp_path))
    (finding,) = (finding for finding in refused.value.findings if finding.severity == "error")
    assert finding.code == refusal(model, method)
    assert finding.mend
    assert not list(tmp_path.rglob("run.json"))
