"""Every method on models that match pictures with texts, pretrained and joined from two towers: it runs, learns, trains
only what was chosen and opens again the same in a fresh process, or is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toys
from battery import assert_loss_fell, assert_refused, assert_same_metrics, cases, judged_in_a_fresh_process
from modalities import MATCH
from safetensors.torch import load_file
from table import METHODS

import luthier
import tiny

STEPS = 30
CELLS, refusal = MATCH.cells, MATCH.refusal
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
    for i, (image, colour) in enumerate(toys.pictures(made, ("red", "green", "blue"), 40)):
        captions = [f"the {colour} {tiny.WORDS[3 + i % 8]}", f"{colour} and {tiny.WORDS[3 + i % 5]} {i}"]
        rows.append({"image": image, "captions": captions})
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
    assert_loss_fell(run, to=0.97, over=5)
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
    runs = finished.values()
    for run, found in zip(runs, judged_in_a_fresh_process(str(folder / "eval.jsonl"), *runs), strict=True):
        assert_same_metrics(run, found)


@pytest.mark.parametrize(("model", "method"), cases(CELLS, DEFAULT, refusal, wanted=True))
def test_a_refused_cell(model: str, method: str, models: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    assert_refused(recipe(model, method, models, folder, tmp_path), refusal(model, method))
