"""Methods by role, each with its learning rate: on towers composed in each way, on CLIP, LLaVA and an encoder-decoder:
it runs, learns, trains what it was given and nothing of a role that is frozen, and opens again the same in a fresh
process; or is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toys
from battery import assert_judged_the_same, assert_loss_fell, assert_refused, cases
from safetensors.torch import load_file
from towers import CELLS, COMPOSED, refusal, towers_of

import luthier
import tiny

pytestmark = pytest.mark.usefixtures("few_resamples")

STEPS = 30
DEFAULT = {
    ("concatenation", "lora, adapter, full"), ("projection", "dora, prompt"), ("clip", "adapter, adapter"),
    ("convolutional", "lora, prefix"), ("projection", "features, lora"), ("clip", "lora, no such role"),
    ("convolutional", "vera, adalora"), ("llava", "last block, lora + norms"), ("t5", "dora, prompt"),
    ("clip", "dora, prompt"),
}  # fmt: skip
PARTS = {
    "vision": ("model.image.", "vision_model.", "model.vision_tower."),
    "text": ("model.text.", "text_model.", "model.soft_", "model.language_model."),
    "projector": ("model.fusion.", "visual_projection.", "text_projection.", "logit_scale", "model.multi_modal"),
    "encoder": ("encoder.", "shared.", "soft_"), "decoder": ("decoder.",), "head": ("classifier.", "lm_head."),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a coloured patch with a question that it decides, or with captions; and documents."""
    made, rows = tmp_path_factory.mktemp("pictures"), []
    for i, (image, colour) in enumerate(toys.pictures(made, ("red", "green"), 40)):
        text = f"the {tiny.WORDS[3 + i % 9]} and the patch"
        rows.append({"image": image, "label": colour, "text": text})
    told = [{"image": row["image"], "caption": f"{row['label']} {row['text']}"} for row in rows]
    asked = [{"image": row["image"], "question": row["text"], "answers": [row["label"]]} for row in rows]
    documents = [
        {"document": f"{row['label']} {row['text']} {i}", "summary": row["label"]} for i, row in enumerate(rows)
    ]
    for kind, some in (("classify", rows), ("match", told), ("vqa", asked), ("summarize", documents)):
        tiny.write_jsonl(made / f"train-{kind}.jsonl", some[8:])
        tiny.write_jsonl(made / f"eval-{kind}.jsonl", some[:8])
    return made


@pytest.fixture(scope="module")
def models(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = tmp_path_factory.mktemp("models")
    text = tiny_folder("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    seeing = {kind: tiny.save_image_model(kind, made / kind) for kind in ("vit", "resnet")}
    composed: dict[str, Any] = {fuse: {"image": seeing["vit"], "text": text, "fuse": fuse} for fuse in COMPOSED}
    composed["convolutional"] = {"image": seeing["resnet"], "text": text, "fuse": "cross_attention"}
    llava = tiny.save_vision_language_model("llava", made / "llava")
    return composed | {"clip": tiny.save_dual_model("clip", made / "clip"), "llava": llava, "t5": tiny_folder("t5")}


def recipe(model: str, towers: str, models: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    task = {"clip": "match", "llava": "vqa", "t5": "summarize"}.get(model, "classify")
    data = {"train": str(folder / f"train-{task}.jsonl"), "eval": str(folder / f"eval-{task}.jsonl")}
    writes = {task: {"max_new_tokens": 4}} if task in ("vqa", "summarize") else {}
    return {
        "task": task, "model": models[model], "data": data, "out": str(out), "steps": STEPS, "batch_size": 32,
        "eval_every": STEPS, "final": "last", "schedule": "constant", "warmup": 0,
        "method": towers_of(model, towers), **writes,
    }  # fmt: skip


@pytest.mark.parametrize(("model", "towers"), cases(CELLS, DEFAULT, refusal, wanted=False))
def test_a_working_cell(model: str, towers: str, models: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    run = luthier.tune(**recipe(model, towers, models, folder, tmp_path))
    assert_loss_fell(run)
    assert_each_role_has_its_own(run, towers_of(model, towers))
    assert_judged_the_same(run, recipe(model, towers, models, folder, tmp_path)["data"]["eval"])
    again = luthier.tune(str(run.folder / "recipe.yaml"))
    assert again.folder == run.folder, "the resolved recipe is the same run"


def assert_each_role_has_its_own(run: luthier.Run, towers: dict[str, Any]) -> None:
    """A folder for each role that trains, with numbers of that role alone; a frozen one has none, and is told."""
    told = {role["role"]: role for role in run.result["roles"]}
    given = {role for role, method in towers.items() if method != "frozen"}
    assert all(told[role]["trained"] > 0 for role in given)
    assert all(told[role]["learning_rate"] == towers[role]["learning_rate"] for role in given)
    assert sum(role["trained"] for role in told.values()) == pytest.approx(
        run.result["trainable"], abs=1
    )  # logit_scale
    frozen = {role for role, one in told.items() if not one["trained"]}
    noted = [found["what"] for found in run.result["findings"] if found["code"] == "method.frozen-role"]
    assert frozen == {what.split("`")[1] for what in noted}
    final = run.folder / "final"
    if (final / "model.safetensors").is_file():
        return
    for role, prefixes in PARTS.items():
        files = list((final / role).rglob("adapter_model.safetensors"))
        assert bool(files) == bool(told.get(role, {}).get("trained")), role
        names = [name.removeprefix("base_model.model.") for file in files for name in load_file(file)]
        theirs = ("prompt_embeddings", "base_model.vera_")  # PEFT's names have no module in them
        assert all(name.startswith((*prefixes, *theirs)) for name in names), (role, names[:3])


@pytest.mark.parametrize(("model", "towers"), cases(CELLS, DEFAULT, refusal, wanted=True))
def test_a_refused_cell(model: str, towers: str, models: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    assert_refused(recipe(model, towers, models, folder, tmp_path), refusal(model, towers))
