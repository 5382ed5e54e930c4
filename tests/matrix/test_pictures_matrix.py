"""Every method on models of pictures, and on an image encoder composed with a text model in each way: it runs, learns,
trains only what was chosen and opens again the same in a fresh process, or is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toys
from battery import assert_judged_the_same, assert_loss_fell, assert_refused, cases, place
from modalities import COMPOSED, PICTURES, SEES
from safetensors.torch import load_file
from table import METHODS

import luthier
import tiny

pytestmark = pytest.mark.usefixtures("few_resamples")

STEPS = 30
APART: dict[tuple[str, str], dict[str, Any]] = {
    ("vit", "lora: vera"): {"learning_rate": 5e-2}, ("cross_attention", "prompt"): {"learning_rate": 3e-3},
}  # fmt: skip
CELLS, refusal = PICTURES.cells, PICTURES.refusal
DEFAULT = {
    ("vit", "full"), ("vit", "lora"), ("vit", "adapter: pfeiffer"), ("vit", "prefix"), ("vit", "features: logistic"),
    ("resnet", "lora"), ("resnet", "full"), ("resnet", "prefix"), ("convnext", "lora"),
    ("convnext", "adapter: parallel"), ("vit", "prompt"), ("projection", "lora"), ("projection", "prompt"),
    ("concatenation", "adapter: houlsby"), ("cross_attention", "freeze: head"), ("cross_attention", "lora: dora"),
    ("projection", "features: logistic"), ("concatenation", "full"), ("projection", "prompt + lora"),
    ("modulation", "lora"), ("clip", "lora"), ("clip", "full"), ("siglip", "prefix"), ("siglip", "prompt"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a coloured patch; with a question whose answer the picture alone decides."""
    made = tmp_path_factory.mktemp("pictures")
    rows = [{"image": image, "label": colour} for image, colour in toys.pictures(made, ("red", "green"), 40)]
    for name, some in (("train", rows[8:]), ("eval", rows[:8])):
        tiny.write_jsonl(made / f"{name}.jsonl", some)
        asked = [row | {"text": f"the {tiny.WORDS[3 + i % 9]} and the patch"} for i, row in enumerate(some)]
        tiny.write_jsonl(made / f"{name}-asked.jsonl", asked)
    return made


@pytest.fixture(scope="module")
def models(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    towers = tmp_path_factory.mktemp("models")
    save = {kind: tiny.save_dual_model if kind in tiny.DUAL_MODELS else tiny.save_image_model for kind in SEES}
    seeing = {kind: save[kind](kind, towers / kind) for kind in SEES}
    text = tiny_folder("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    composed = {fuse: {"image": seeing["vit"], "text": text, "fuse": fuse} for fuse in COMPOSED}
    return {**seeing, **composed}


def recipe(model: str, method: str, models: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    suffix = "-asked" if model in COMPOSED else ""
    data = {"train": str(folder / f"train{suffix}.jsonl"), "eval": str(folder / f"eval{suffix}.jsonl")}
    return {
        "task": "classify", "model": models[model], "data": data, "out": str(out), "steps": STEPS, "batch_size": 32,
        "eval_every": STEPS, "final": "last", "schedule": "constant", "warmup": 0, **METHODS[method],
        **APART.get((model, method), {}),
    }  # fmt: skip


@pytest.mark.parametrize(("model", "method"), cases(CELLS, DEFAULT, refusal, wanted=False))
def test_a_working_cell(model: str, method: str, models: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    run = luthier.tune(**recipe(model, method, models, folder, tmp_path))
    final = run.folder / "final"
    if method.startswith("features"):
        assert run.result["after"]["accuracy"]["value"] > 0.6
        assert not list(final.glob("model*.safetensors"))
    else:
        assert_loss_fell(run)
        assert_only_chosen_moved(final, model, method, models)
    assert_judged_the_same(run, recipe(model, method, models, folder, tmp_path)["data"]["eval"])


def assert_only_chosen_moved(final: Path, model: str, method: str, models: dict[str, Any]) -> None:
    """Of a whole model, what was not chosen is bit-equal to the towers'; an adapter brings its own numbers alone."""
    if (final / "adapter_config.json").is_file():
        marks = ("lora_", "ia3_", "vera_", "oft_", ".adapter", "prompt_", "classifier", "fusion")
        assert all(any(mark in name for mark in marks) for name in load_file(final / "adapter_model.safetensors"))
    if not method.startswith(("full", "freeze")):
        return
    after = load_file(final / "model.safetensors")
    towers = models[model] if model in COMPOSED else {"": models[model]}
    for role, path in towers.items():
        if role == "fuse":
            continue
        before = load_file(Path(path) / "model.safetensors")
        pairs = [(name, tensor, place(name, role, after)) for name, tensor in before.items()]
        common = [(name, old, after[found]) for name, old, found in pairs if found]
        assert len(common) > 10
        moved = {name for name, old, new in common if old.shape == new.shape and not old.equal(new)}
        chosen = {
            "full": lambda name: True, "freeze: head": lambda name: "classifier" in name,
            "freeze: norms": lambda name: "norm" in name.lower() or "downsampling_layer.0." in name,
            "freeze: biases": lambda name: name.endswith("bias"),
        }.get(method, lambda name: True)  # fmt: skip
        assert all(chosen(name) or "classifier" in name for name in moved), sorted(moved)[:5]
        stay = {name for name in moved if "running_" in name}
        assert bool(stay) == (method == "full" and any("running_" in name for name in before)), "statistics"


@pytest.mark.parametrize(("model", "method"), cases(CELLS, DEFAULT, refusal, wanted=True))
def test_a_refused_cell(model: str, method: str, models: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    assert_refused(recipe(model, method, models, folder, tmp_path), refusal(model, method))


def test_what_does_not_fit_is_refused(
    models: dict[str, Any], folder: Path, tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Pictures for a model of text, text for a model of pictures, a text beside pictures for one that reads none."""
    asked, alone = str(folder / "train-asked.jsonl"), str(folder / "train.jsonl")
    words = tiny.write_jsonl(tmp_path / "words.jsonl", [{"text": f"red {i}", "label": "ab"[i % 2]} for i in range(8)])
    cases = [
        (tiny_folder("bert"), alone, "model.no-pictures"),
        (models["vit"], words, "data.no-picture"),
        (models["vit"], asked, "model.no-text"),
    ]
    for model, data, code in cases:
        findings, _ = luthier.check(task="classify", model=model, data=data, method="lora")
        assert code in {finding.code for finding in findings if finding.severity == "error"}
    pairs = tiny.write_jsonl(
        tmp_path / "pairs.jsonl", [{"query": f"red {i}", "positive": f"cat {i}"} for i in range(8)]
    )
    findings, _ = luthier.check(task="retrieve", model=models["vit"], data=pairs, method="lora")
    assert "model.no-text" in {finding.code for finding in findings if finding.severity == "error"}
    turns = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "cat"}]
    chats = tiny.write_jsonl(tmp_path / "chats.jsonl", [{"messages": turns}])
    findings, _ = luthier.check(task="chat", model=models["vit"], data=chats, method="lora")
    assert "model.no-text" in {finding.code for finding in findings if finding.severity == "error"}


@pytest.mark.parametrize("model", ["vit", "clip"])
def test_a_tower_that_no_gradient_reaches_is_named(
    model: str, models: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.models.vision.images import ImageBackbone

    given = recipe(model, "lora", models, folder, tmp_path) | {"method": {"vision": "lora", "head": "full"}}
    findings, _ = luthier.check(**given)
    assert "method.no-gradient" not in {finding.code for finding in findings}
    states = ImageBackbone._states
    monkeypatch.setattr(ImageBackbone, "_states", lambda self, pixels: states(self, pixels).detach())
    findings, _ = luthier.check(**given)
    told = [finding.what for finding in findings if finding.code == "method.no-gradient"]
    assert "the image tower is not reached at all" in told[0]


def test_a_model_that_does_not_look_is_refused(
    models: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.models.joined.composed import ComposedModel

    pictures = ComposedModel.pictures
    monkeypatch.setattr(ComposedModel, "pictures", lambda self, pixels: 0 * pictures(self, pixels))
    findings, _ = luthier.check(**recipe("concatenation", "lora", models, folder, tmp_path))
    assert "model.image-blind" in {finding.code for finding in findings if finding.severity == "error"}
