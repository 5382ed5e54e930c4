"""Methods by role, each with its learning rate: on towers composed in each way and on CLIP: it runs, learns, trains
what it was given and nothing of a role that is frozen, and opens again the same in a fresh process; or is refused.
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

import luthier
import tiny
from luthier.evaluate import classification
from luthier.types import Refused

STEPS = 30
COMPOSED = ("projection", "concatenation", "cross_attention")
MODELS = (*COMPOSED, "convolutional", "clip")
LORA, ADAPTER = {"lora": {"rank": 4}, "learning_rate": 1e-2}, {"adapter": {"size": 8}, "learning_rate": 2e-2}
FULL = {"full": {}, "learning_rate": 3e-3}
TOWERS: dict[str, dict[str, Any]] = {
    "lora | adapter | full": {"vision": LORA, "text": ADAPTER, "projector": FULL},
    "frozen | full": {"vision": "frozen", "text": FULL},
    "last block | lora + norms": {
        "vision": {"freeze": {"last": 1}, "learning_rate": 1e-2},
        "text": {"lora": {"rank": 4}, "freeze": {"train": ["norms"]}, "learning_rate": 1e-2},
    },
    "adapter | adapter": {"vision": ADAPTER, "text": ADAPTER},
    "dora | prompt": {
        "vision": {"dora": {"rank": 4}, "learning_rate": 1e-2},
        "text": {"prompt": {"num_virtual_tokens": 6}, "learning_rate": 0.1},
    },
    "vera | adalora": {
        "vision": {"vera": {"rank": 16}, "learning_rate": 0.1},
        "text": {"adalora": {"rank": 4}, "learning_rate": 5e-2},
    },
    "lora | prefix": {
        "vision": LORA, "text": {"prefix": {"num_virtual_tokens": 6, "hidden": 32}, "learning_rate": 2e-2},
    },
    "full | ia3": {"vision": FULL, "text": {"ia3": {}, "learning_rate": 2e-1}},
    "pissa | houlsby": {
        "vision": {"pissa": {"rank": 4}, "learning_rate": 5e-3},
        "text": {"houlsby": {"size": 8}, "learning_rate": 2e-2},
    },
    "frozen | frozen": {"vision": "frozen", "text": "frozen", "projector": FULL},
    "features | lora": {"vision": "features", "text": LORA},
    "lora | no such role": {"vision": LORA, "audio": LORA},
}  # fmt: skip


def refusal(model: str, towers: str) -> str | None:
    if towers.startswith("features"):
        return "method.combination"  # it fits a classifier to vectors of the whole
    if "no such role" in towers:
        return "method.no-role"
    if model == "clip" and "prompt" in towers:
        return "method.no-target"  # tokens would stand before the texts alone
    if model == "convolutional" and towers.startswith("adapter"):
        return "method.no-target"
    if model == "convolutional" and towers.startswith(("vera", "pissa")):
        return "method.unsupported"
    return None


CELLS = [(model, towers) for model in MODELS for towers in TOWERS]
DEFAULT = {
    ("concatenation", "lora | adapter | full"), ("projection", "dora | prompt"), ("clip", "adapter | adapter"),
    ("convolutional", "lora | prefix"), ("projection", "features | lora"), ("clip", "lora | no such role"),
    ("convolutional", "vera | adalora"),
}  # fmt: skip
PARTS = {"vision": ("model.image.", "vision_model."), "text": ("model.text.", "text_model.", "model.soft_"),
         "projector": ("model.fusion.", "visual_projection.", "text_projection.", "logit_scale"),
         "head": ("classifier.",)}  # fmt: skip


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "F1_RESAMPLES", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a coloured patch; with a question whose answer the picture alone decides, or with captions."""
    made, rows = tmp_path_factory.mktemp("pictures"), []
    for i in range(40):
        colour = ("red", "green")[i % 2]
        tiny.save_picture(made / "images" / f"{i}.png", colour, seed=i)
        text = f"the {tiny.WORDS[3 + i % 9]} and the patch"
        rows.append({"image": f"images/{i}.png", "label": colour, "text": text})
    told = [{"image": row["image"], "caption": f"{row['label']} {row['text']}"} for row in rows]
    for kind, some in (("asked", rows), ("told", told)):
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
    return composed | {"clip": tiny.save_dual_model("clip", made / "clip")}


def recipe(model: str, towers: str, models: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    task, kind = ("match", "told") if model == "clip" else ("classify", "asked")
    data = {"train": str(folder / f"train-{kind}.jsonl"), "eval": str(folder / f"eval-{kind}.jsonl")}
    return {
        "task": task, "model": models[model], "data": data, "out": str(out), "steps": STEPS, "batch_size": 32,
        "eval_every": STEPS, "final": "last", "schedule": "constant", "warmup": 0, "method": TOWERS[towers],
    }  # fmt: skip


@pytest.mark.parametrize(("model", "towers"), cases(CELLS, DEFAULT, refusal, wanted=False))
def test_a_working_cell(model: str, towers: str, models: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    run = luthier.tune(**recipe(model, towers, models, folder, tmp_path))
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3]), losses
    assert_each_role_has_its_own(run, towers)
    script = "import luthier, json, sys; r = luthier.load(sys.argv[1]); print(json.dumps(r.evaluate(sys.argv[2])))"
    held_out = recipe(model, towers, models, folder, tmp_path)["data"]["eval"]
    done = subprocess.run([sys.executable, "-c", script, str(run.folder), held_out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])["metrics"]
    for name, expected in run.result["after"].items():
        assert found[name]["value"] == pytest.approx(expected["value"], rel=1e-4, abs=1e-5), name
    again = luthier.tune(str(run.folder / "recipe.yaml"))
    assert again.folder == run.folder, "the resolved recipe is the same run"


def assert_each_role_has_its_own(run: luthier.Run, towers: str) -> None:
    """A folder for each role that trains, with numbers of that role alone; a frozen one has none, and is told."""
    told = {role["role"]: role for role in run.result["roles"]}
    given = {role for role, method in TOWERS[towers].items() if method != "frozen"}
    assert all(told[role]["trained"] > 0 for role in given)
    assert all(told[role]["learning_rate"] == TOWERS[towers][role]["learning_rate"] for role in given)
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
    with pytest.raises(Refused) as refused:
        luthier.tune(**recipe(model, towers, models, folder, tmp_path))
    (finding,) = (finding for finding in refused.value.findings if finding.severity == "error")
    assert finding.code == refusal(model, towers)
    assert finding.mend
    assert not list(tmp_path.rglob("run.json"))
