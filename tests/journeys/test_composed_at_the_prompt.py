"""A composed model and methods by role written as options of the command; what goes against itself is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from typed import session

import luthier
import tiny
from luthier.models.joined.dual_encoder import ComposedDualEncoder


@pytest.fixture
def towers(tiny_folder: Callable[..., str], tmp_path: Path) -> dict[str, str]:
    rows = []
    for i in range(16):
        tiny.save_picture(tmp_path / ("odd" if i % 2 else "even") / f"{i}.png", ("red", "green")[i % 2], seed=i)
        rows.append({"image": f"{i}.png", "question": "the patch", "answer": ("red", "green")[i % 2]})
    tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    tiny.write_jsonl(tmp_path / "even/asked.jsonl", [{"image": "0.png", "question": "the patch"}])
    return {"image": tiny.save_image_model("vit", tmp_path / "vit"), "text": tiny_folder("llama")}


def rows(folder: Path) -> dict[str, object]:
    return {"train": str(folder / "rows.jsonl"), "images": [str(folder / "odd"), str(folder / "even")]}


def test_options_hold_what_a_recipe_would(towers: dict[str, str], tmp_path: Path) -> None:
    def flow(value: object) -> str:
        return json.dumps(value, separators=(",", ":"))

    model, method = flow({**towers, "fuse": "projection"}), flow({"vision": "lora", "projector": "full"})
    ask = flow({"image": "even/0.png", "question": "the"})
    given = f"--model {model} --method {method} --data {flow({'train': 'rows.jsonl', 'images': ['odd', 'even']})}"
    tuned, answered, unasked, broken, judged, lost, of_file, talked, no_talk = session(
        tmp_path,
        f"tune --task vqa {given} steps=2 batch_size=4 name=one",
        f"predict runs/one --json {ask}", "predict runs/one even/0.png", f"check --task vqa --model {model[:-1]}",
        "evaluate runs/one --data rows.jsonl --json", "evaluate runs/one --data rows.jsonl --images odd",
        "predict runs/one --data even/asked.jsonl --json",
        ("chat runs/one --image even/0.png --json --max-new-tokens 16", "the patch\nthe patch\n"),
        "chat runs/one --image none.png",
    )  # fmt: skip
    assert tuned.code == 0, tuned.out + tuned.err
    told = yaml.safe_load((tmp_path / "runs/one/recipe.yaml").read_text())
    assert told["model"]["text"] == towers["text"]
    assert told["method"].keys() == {"vision", "projector"}
    assert answered.json[0]["input"] == json.loads(ask)
    assert judged.json["rows"] == 16, "pictures are where they were in training, from any folder"
    assert (lost.code, "0.png there is no such file" in lost.out + lost.err) == (2, True)
    assert of_file.json[0]["input"]["image"] == str(tmp_path / "even/0.png"), "relative to the file"
    said = [json.loads(line)["text"] for line in talked.out.splitlines()]
    assert said == [of_file.json[0]["text"]] * 2, "each line asks something of the picture"
    assert no_talk.code == 0, "no line was said"
    assert (unasked.code, "run.question" in unasked.out + unasked.err) == (2, True)
    assert (broken.code, "--model: not readable as YAML" in broken.out + broken.err) == (2, True)


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"name": "elsewhere"}, "recipe.value", "compose another"),
        ({"fuse": ["projection", "cross_attention"]}, "recipe.value", "one way"),
        ({"fuse": {"projection": {}, "cross_attention": {}}}, "recipe.value", "one way"),
        ({"fuse": {"projection": {"tokenz": 4}}}, "recipe.unknown-key", "Did you mean `tokens`?"),
        ({"fuse": {"projection": {"tokens": 4, "pool": 2}}}, "recipe.value", "give one of them"),
    ],
)
def test_what_goes_against_itself(
    changes: dict[str, object], code: str, told: str, towers: dict[str, str], tmp_path: Path
) -> None:
    findings, _ = luthier.check(task="vqa", model={**towers, **changes}, data=rows(tmp_path))
    (found,) = (one for one in findings if one.severity == "error")
    assert found.code == code
    assert told in str(found)


def test_what_stands_behind_a_closed_gate_is_reached(towers: dict[str, str], tmp_path: Path) -> None:
    """Gates begin at 0: the vision tower's B gets a gradient once they are open, and its A once B is not 0."""
    findings, _ = luthier.check(
        task="vqa", model={**towers, "fuse": "cross_attention"}, data=rows(tmp_path),
        method={"vision": "lora", "text": "frozen"},
    )  # fmt: skip
    assert "method.no-gradient" not in {one.code for one in findings}


@pytest.mark.parametrize(("role", "kind"), [("text", "clip"), ("image", "llava"), ("image", "llama")])
def test_what_is_no_tower_is_refused(role: str, kind: str, towers: dict[str, str], tmp_path: Path) -> None:
    save = {"clip": tiny.save_dual_model, "llava": tiny.save_vision_language_model}.get(kind, tiny.save)
    model = {**towers, role: save(kind, tmp_path / kind)}
    findings, _ = luthier.check(task="vqa", model=model, data=rows(tmp_path))
    assert [(one.code, one.where) for one in findings if one.severity == "error"] == [
        ("model.unreadable", f"model.{role}")
    ]


def test_a_decoder_is_a_tower_that_is_compared(tmp_path: Path) -> None:
    """Tied head or not; its vector is of the last token, which has seen all."""
    lines = []
    for i in range(12):
        tiny.save_picture(tmp_path / f"{i}.png", ("red", "green")[i % 2], seed=i)
        lines.append({"image": f"{i}.png", "caption": f"the {tiny.WORDS[i % 9]} {i}"})
    image, data = tiny.save_image_model("vit", tmp_path / "vit"), tiny.write_jsonl(tmp_path / "rows.jsonl", lines)
    for kind in ("llama", "llama-tied"):
        model = {"image": image, "text": tiny.save(kind, tmp_path / kind), "fuse": "similarity"}
        run = luthier.tune(
            task="match", model=model, data=data, method="full", steps=2, out=str(tmp_path / "runs"), name=kind
        )
        opened = ComposedDualEncoder.from_pretrained(run.folder / "final")
        assert opened.config.classifier_reads == "last"
        words = transformers.AutoTokenizer.from_pretrained(run.folder / "final")
        given = words("the red house", return_tensors="pt")
        with torch.no_grad():
            expected = opened.eval().get_text_features(given["input_ids"], given["attention_mask"]).pooler_output[0]
        (answer,) = luthier.load(run.folder).predict(["the red house"])
        assert answer["vector"] == pytest.approx(torch.nn.functional.normalize(expected, dim=0).tolist(), abs=1e-5)
