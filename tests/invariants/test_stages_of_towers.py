"""Two stages in one recipe: what joins the towers alone, or a head on one, then adapters in the towers with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import luthier
import tiny


def test_what_joins_first_and_the_towers_then(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """After the first stage the towers are bit-equal to what they were; the second begins where it ended."""
    rows = []
    for i in range(12):
        tiny.save_picture(tmp_path / f"{i}.png", ("red", "green")[i % 2], seed=i)
        rows.append({"image": f"{i}.png", "caption": f"the {('red', 'green')[i % 2]} house"})
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    seeing = tiny.save_image_model("vit", tmp_path / "vit")
    common: dict[str, Any] = {"task": "caption", "data": {"train": data, "eval": 0.25}, "final": "last"}
    towers = {"image": seeing, "text": tiny_folder("llama"), "fuse": "projection"}
    align = {
        "model": towers, "method": {"vision": "frozen", "text": "frozen", "projector": "full"},
        "learning_rate": 1e-2, "steps": 12,
    }  # fmt: skip
    adapt = {
        "model": "stage:align", "method": {"vision": "lora", "text": "lora", "projector": "full"},
        "learning_rate": 1e-3, "steps": 4,
    }  # fmt: skip
    luthier.tune({**common, "out": str(tmp_path / "runs"), "name": "two", "stages": {"align": align, "adapt": adapt}})
    folders = {name: next((tmp_path / "runs").rglob(f"*{name}*/result.json")).parent for name in ("align", "adapt")}
    after = load_file(folders["align"] / "final/model.safetensors")
    text = load_file(Path(tiny_folder("llama")) / "model.safetensors")
    same = [name for name in text if f"model.text.{name.removeprefix('model.')}" in after]
    assert len(same) > 10
    for name in same:
        held = after[f"model.text.{name.removeprefix('model.')}"]
        assert held.shape != text[name].shape or held.equal(text[name])
    told = {name: json.loads((folder / "result.json").read_text()) for name, folder in folders.items()}
    ended, began = told["align"]["after"]["loss"]["value"], told["adapt"]["before"]["loss"]["value"]
    assert ended < told["align"]["before"]["loss"]["value"]
    assert began == pytest.approx(ended, rel=1e-4)


def test_a_linear_probe_of_clip_first_and_its_image_encoder_then(tmp_path: Path) -> None:
    """As LP-FT (Kumar et al. 2022) has it: the first stage leaves the encoder bit-equal, the second begins with it and
    with its head."""
    rows = []
    for i in range(12):
        tiny.save_picture(tmp_path / f"{i}.png", ("red", "green")[i % 2], seed=i)
        rows.append({"image": f"{i}.png", "label": ("red", "green")[i % 2]})
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    path = tiny.save_dual_model("clip", tmp_path / "clip")
    probe: dict[str, Any] = {"model": path, "method": "probe", "learning_rate": 1e-2, "steps": 12}
    whole: dict[str, Any] = {
        "model": "stage:probe", "method": {"vision": {"full": {}, "learning_rate": 1e-4}, "head": "full"},
        "learning_rate": 1e-3, "steps": 4,
    }  # fmt: skip
    luthier.tune(
        {"task": "classify", "data": {"train": data, "eval": 0.25}, "final": "last", "out": str(tmp_path / "runs"),
         "name": "two", "stages": {"probe": probe, "whole": whole}}
    )  # fmt: skip
    folders = {name: next((tmp_path / "runs").rglob(f"*{name}*/result.json")).parent for name in ("probe", "whole")}
    before, after = load_file(Path(path) / "model.safetensors"), load_file(folders["probe"] / "final/model.safetensors")
    assert {name for name in after if name not in before} == {"classifier.weight", "classifier.bias"}
    assert all(after[name].equal(before[name]) for name in after if name in before)
    told = {name: json.loads((folder / "result.json").read_text()) for name, folder in folders.items()}
    ended, began = told["probe"]["after"]["loss"]["value"], told["whole"]["before"]["loss"]["value"]
    assert ended < told["probe"]["before"]["loss"]["value"]
    assert began == pytest.approx(ended, rel=1e-4)
