"""Every method on an image encoder composed with a decoder in each way, for captions and for answers: it runs, learns,
looks at the pictures, trains only what was chosen and opens again the same in a fresh process, or is refused with the
reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from battery import assert_judged_the_same, assert_loss_fell, assert_refused, cases, place
from modalities import FUSES, WRITERS
from safetensors.torch import load_file
from table import METHODS

import luthier
import tiny
from luthier.types import Refused

STEPS = 30
TASKS = ("caption", "vqa")
ADDED = ("lora_", "ia3_", "vera_", "oft_", ".adapter", "prompt_", "fusion")


CELLS, refusal = WRITERS.cells, WRITERS.refusal
DEFAULT = {
    ("projection caption", "lora"), ("gates vqa", "lora"), ("projection vqa", "prompt"), ("gates caption", "full"),
    ("early caption", "adapter: houlsby"), ("gates caption", "features: logistic"),
}  # fmt: skip
FRESH = ("projection caption", "gates vqa")
# What a frozen random decoder of two blocks can be taught but slowly.
APART: dict[str, dict[str, Any]] = {"prompt + lora": {"learning_rate": 2e-2}, "lora: vera": {"learning_rate": 5e-2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a coloured patch: with a caption or two that name it, and with a question that it answers."""
    made = tmp_path_factory.mktemp("pictures")
    rows = []
    for i, (image, colour) in enumerate(toys.pictures(made, ("red", "green"), 40)):
        asked = f"the {tiny.WORDS[3 + i % 9]} and the"
        captions = [f"the {colour}", f"{colour}"][: 1 + i % 2]
        rows.append({"image": image, "question": asked, "answers": [colour] * 4, "captions": captions})
    for name, some in (("train", rows[8:]), ("eval", rows[:8])):
        for task, keys in (("vqa", ("image", "question", "answers")), ("caption", ("image", "captions"))):
            tiny.write_jsonl(made / f"{task}-{name}.jsonl", [{key: row[key] for key in keys} for row in some])
    return made


@pytest.fixture(scope="module")
def towers(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"image": tiny.save_image_model("vit", tmp_path_factory.mktemp("vit")), "text": tiny_folder("llama")}


def recipe(cell: str, method: str, towers: dict[str, str], folder: Path, out: Path) -> dict[str, Any]:
    fuse, task = cell.split()
    return {
        "task": task, "model": towers | {"fuse": FUSES[fuse]}, "steps": STEPS, "batch_size": 32, "eval_every": STEPS,
        "data": {side: str(folder / f"{task}-{side}.jsonl") for side in ("train", "eval")}, "out": str(out),
        "final": "last", "schedule": "constant", "warmup": 0, task: {"max_new_tokens": 4}, **METHODS[method],
        **APART.get(method, {}),
    }  # fmt: skip


def rows_of(keys: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Training rows that can stand in any folder."""
    lines = Path(keys["data"]["train"]).read_text(encoding="utf-8").splitlines()
    return [row | {"image": str(folder / row["image"])} for row in map(json.loads, lines)]


@pytest.mark.parametrize(("cell", "method"), cases(CELLS, DEFAULT, refusal, wanted=False))
def test_a_working_cell(cell: str, method: str, towers: dict[str, str], folder: Path, tmp_path: Path) -> None:
    run = luthier.tune(**recipe(cell, method, towers, folder, tmp_path))
    assert_loss_fell(run)
    assert {"cider_d", "rouge_l"} <= {*run.result["after"]} or "vqa_accuracy" in run.result["after"]
    assert_only_chosen_moved(run.folder / "final", method, towers)
    assert_judged_the_same(
        run,
        recipe(cell, method, towers, folder, tmp_path)["data"]["eval"],
        fresh=(method == "lora" and cell in FRESH) or (cell, method) not in DEFAULT,
    )


def assert_only_chosen_moved(final: Path, method: str, towers: dict[str, str]) -> None:
    """Of a whole model what was not chosen is bit-equal to the towers'; an adapter brings its own numbers and φ's."""
    folders = [path.parent for path in final.rglob("adapter_config.json")]
    for one in folders:
        names = [*load_file(one / "adapter_model.safetensors")]
        assert "WEIGHTS" in (one / "adapter_config.json").read_text() or all(
            any(mark in name for mark in ADDED) for name in names
        ), names
    if not method.startswith(("full", "freeze")):
        return
    after = load_file(final / "model.safetensors")
    moved = set()
    for role in ("image", "text"):
        before = load_file(Path(towers[role]) / "model.safetensors")
        for name, old in before.items():
            found = place(name, role, after)
            if found and not after[found][: len(old)].equal(old):  # a row for the mark of a picture was added
                moved.add(found)
    chosen = {
        "full": lambda name: True, "freeze: head": lambda name: name.startswith("lm_head"),
        "freeze: norms": lambda name: "norm" in name.lower(), "freeze: biases": lambda name: name.endswith("bias"),
        "freeze: last 1": lambda name: ".1." in name or "model.norm" in name or "head" in name or "text.norm" in name,
    }[method]  # fmt: skip
    assert moved
    assert all(chosen(name) for name in moved), sorted(moved)[:5]


@pytest.mark.parametrize(("cell", "method"), cases(CELLS, DEFAULT, refusal, wanted=True))
def test_a_refused_cell(cell: str, method: str, towers: dict[str, str], folder: Path, tmp_path: Path) -> None:
    assert_refused(recipe(cell, method, towers, folder, tmp_path), refusal(cell, method))


@pytest.mark.parametrize("fuse", ["projection", "gates", pytest.param("early", marks=pytest.mark.slow)])
def test_the_picture_decides_what_is_written(
    fuse: str, towers: dict[str, str], folder: Path, tmp_path: Path
) -> None:  # fmt: skip
    """One question, two pictures: two answers. With the pictures out of sight the run does not begin."""
    keys = recipe(f"{fuse} vqa", "full", towers, folder, tmp_path)
    run = luthier.tune(**keys)
    asked = [{"image": str(folder / "images" / f"{i}.png"), "question": "the dog and the"} for i in range(8)]
    assert [answer["text"] for answer in run.predict(asked)] == ["red", "green"] * 4
    assert run.result["after"]["vqa_accuracy"]["value"] == 1


@pytest.mark.parametrize("fuse", ["projection", "gates"])
def test_a_model_that_does_not_look_is_refused(
    fuse: str, towers: dict[str, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.models.joined.composed import ComposedModel

    pictures = ComposedModel.pictures
    monkeypatch.setattr(ComposedModel, "pictures", lambda self, pixels: 0 * pictures(self, pixels))
    findings, _ = luthier.check(**recipe(f"{fuse} vqa", "full", towers, folder, tmp_path))
    assert "model.image-blind" in {finding.code for finding in findings if finding.severity == "error"}
    told = [finding.what for finding in findings if finding.code == "method.no-gradient"]
    assert told
    assert "the image tower is not reached at all" in told[0]


def test_a_picture_is_never_cut_and_never_learned(towers: dict[str, str], folder: Path, tmp_path: Path) -> None:
    """In 24 tokens there is room for the picture's 17 and a few; the question loses its end, the picture nothing."""
    keys = recipe("projection vqa", "lora", towers, folder, tmp_path)
    rows = [row | {"question": "the cat " * 20} for row in rows_of(keys, folder)]
    keys["data"] = tiny.write_jsonl(tmp_path / "long.jsonl", rows)
    findings, prepared = luthier.check(**keys, max_length=32)
    assert not [finding for finding in findings if finding.severity == "error"]
    marker = prepared.backbone.mark_id
    for row in prepared.train.rows:
        assert len(row["input_ids"]) == 32
        assert row["input_ids"].count(marker) == prepared.backbone.pictures.tokens == 17
        assert not any(said for token, said in zip(row["input_ids"], row["supervised"], strict=True) if token == marker)
    findings, _ = luthier.check(**keys, max_length=18)
    cramped = [finding for finding in findings if finding.code == "data.picture-room"]
    assert cramped
    assert all("long.jsonl:" in finding.where and finding.where.endswith(":image") for finding in cramped)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"question": "<image> and <image>"}, "data.picture-marks"), ({"answers": ["<image>"]}, "data.picture-marks"),
        ({"image": "gone.png"}, "data.picture"), ({"answers": []}, "data.empty-target"),
    ],
)  # fmt: skip
def test_bad_rows_are_told_by_their_line(
    change: dict[str, Any], code: str, towers: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    keys = recipe("projection vqa", "lora", towers, folder, tmp_path)
    rows = rows_of(keys, folder)
    rows[3] |= change
    keys["data"] = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    findings, _ = luthier.check(**keys)
    (found,) = [finding for finding in findings if finding.severity == "error"]
    assert found.code == code
    assert "rows.jsonl:4" in found.where


def test_the_same_recipe_starts_from_the_same_numbers(towers: dict[str, str], folder: Path, tmp_path: Path) -> None:
    """Whatever was drawn before: the mark's own row of the embedding and of the head too."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        _, prepared = luthier.check(**recipe("projection vqa", "lora", towers, folder, tmp_path / str(seed)))
        states.append(prepared.backbone.model.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_decoder_alone_reads_no_pictures(towers: dict[str, str], folder: Path, tmp_path: Path) -> None:
    keys = recipe("projection vqa", "lora", towers, folder, tmp_path) | {"model": towers["text"]}
    findings, _ = luthier.check(**keys)
    assert "model.no-pictures" in {finding.code for finding in findings if finding.severity == "error"}


@pytest.mark.parametrize(
    "kind", ["llava", *(pytest.param(one, marks=pytest.mark.slow) for one in ("idefics3", "gemma3"))]
)
def test_pretrained_readers_of_pictures_answer_and_describe(kind: str, folder: Path, tmp_path: Path) -> None:
    """Their pictures stand as their own processors have them; several in a row can't be searched for with beams."""
    model = tiny.save_vision_language_model(kind, tmp_path / kind)
    for task in TASKS:
        keys = recipe(f"projection {task}", "full", {}, folder, tmp_path) | {"model": model}
        run = luthier.tune(**keys)
        assert_loss_fell(run, to=0.5)
    two = {"image": [str(folder / f"images/{i}.png") for i in (0, 1)], "question": "the"}
    assert run.predict([two])[0]["text"]
    with pytest.raises(Refused) as refused:
        run.predict([two], num_beams=2)
    assert refused.value.findings[0].code == "recipe.combination"
