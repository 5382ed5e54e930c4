"""A plan of models that see or hear against the real model: what trains, how rows are laid out, what autograd keeps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kept import kept

import tiny
from luthier.plan.memory import weigh
from luthier.plan.plan import _here, _prepare, plan
from luthier.plan.trace import Trace
from luthier.recipe import read_recipe
from luthier.runs.prepare import prepare
from luthier.runs.prepared import Prepared

ROWS = 8
FROZEN: dict[str, Any] = {"vision": "frozen", "text": "frozen", "projector": "full"}
# model, task, method; whether what autograd keeps is compared too (the rest are asked what trains alone)
CASES: list[tuple[Any, str, Any, bool]] = [
    ("vit", "classify", "full", True),
    ("resnet", "classify", "lora", True),
    ("clip", "match", "full", True),
    ("clip", "classify", "lora", True),
    ("siglip", "classify", "features", False),
    ("siglip", "match", "lora", True),
    ("vit + bert: concatenation", "classify", "lora", True),
    ("vit + bert: cross_attention", "classify", "full", False),
    ("resnet + bert: concatenation", "classify", FROZEN, False),
    ("vit + bert: similarity", "match", {"freeze": {"train": ["head"]}}, False),
    ("vit + llama: projection", "caption", "full", True),
    ("vit + llama: cross_attention", "vqa", "lora", True),
    ("llava", "chat", "lora", True),
    ("gemma3", "chat", "lora", False),
    ("wav2vec2", "classify", "full", True),
    ("whisper", "transcribe", "lora", True),
    ("wav2vec2 + bert: similarity", "match", "lora", False),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("senses")
    for i in range(ROWS):
        tiny.save_picture(made / f"{i}.png", ("red", "green")[i % 2], seed=i)
        tiny.save_tone(made / f"{i}.wav", [400.0 + 100 * (i % 2)], seconds=0.2, seed=i)
    return made


@pytest.fixture(scope="module")
def models(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    made = tmp_path_factory.mktemp("models")

    def one(name: str) -> Any:
        if "+" in name:
            first, _, rest = name.partition(" + ")
            text, _, fuse = rest.partition(": ")
            role = "audio" if first in tiny.SOUND_MODELS else "image"
            return {role: one(first), "text": tiny_folder(text), "fuse": fuse}
        known: list[tuple[Any, Any]] = [
            (tiny.IMAGE_MODELS, tiny.save_image_model), (tiny.DUAL_MODELS, tiny.save_dual_model),
            (tiny.VISION_LANGUAGE, tiny.save_vision_language_model), (tiny.SOUND_MODELS, tiny.save_sound_model),
        ]  # fmt: skip
        if not (made / name).exists():
            next(save for kinds, save in known if name in kinds)(name, made / name)
        return str(made / name)

    return one


def rows(model: str, task: str, folder: Path) -> str:
    """A file of them."""
    hears = model.partition(" ")[0] in tiny.SOUND_MODELS
    made = []
    for i in range(ROWS):
        row: dict[str, Any] = {"audio": f"{i}.wav"} if hears else {"image": f"{i}.png"}
        word, words = tiny.WORDS[i % 3], f"the {tiny.WORDS[3 + i]} cat"
        if task == "classify":
            row |= {"label": "ab"[i % 2]} | ({"text": words} if "+" in model else {})
        row |= {
            "match": {"caption": words}, "caption": {"caption": words}, "transcribe": {"text": word},
            "vqa": {"question": words, "answer": word}, "chat": {"prompt": words, "response": word},
        }.get(task, {})  # fmt: skip
        made.append(row)
    return tiny.write_jsonl(folder / f"{task}-{model[:4]}-{'+' in model}.jsonl", made)


def recipe(model: str, task: str, method: Any, models: Any, folder: Path, out: Path) -> dict[str, Any]:
    return {
        "task": task, "model": models(model), "data": {"train": rows(model, task, folder), "eval": 0.0},
        "method": method, "out": str(out), "steps": 1, "batch_size": ROWS, "precision": "fp32", "matmul": "default",
        "micro_tokens": 10**6,
    }  # fmt: skip


def both(given: dict[str, Any]) -> tuple[Prepared, Prepared, Trace]:
    trace = Trace()
    resolved, again = (read_recipe(given)[0] for _ in range(2))
    assert resolved is not None
    assert again is not None
    planned = _prepare(again, _here(), trace, [])
    return prepare(resolved, torch.device("cpu")), planned, trace


@pytest.mark.parametrize(("model", "task", "method", "measured"), CASES, ids=lambda one: str(one)[:40])
def test_a_plan_is_of_the_run(
    model: str, task: str, method: Any, measured: bool, models: Any, folder: Path, tmp_path: Path
) -> None:
    """The same numbers train in the same layout; what is alive at the end of the forward pass and no weight is what
    autograd keeps of the real one, and a few small tensors more."""
    real, planned, trace = both(recipe(model, task, method, models, folder, tmp_path))
    assert {name: p.shape for name, p in planned.adaptation.parameters.items()} == {
        name: p.shape for name, p in real.adaptation.parameters.items()
    }
    backbone: Any = planned.backbone
    assert backbone.assumed == []
    assert (backbone.layout, backbone.causal) == (real.backbone.layout, real.backbone.causal)
    found = weigh(planned, trace)
    assert found.trainable == sum(p.numel() for p in real.adaptation.parameters.values())
    if not measured:
        return
    step = next(phase for phase in trace.phases if phase.name == "step")
    held = {number: size for number, size in trace.events[: step.first] if size > 0}
    alive, most = 0, 0
    for number, size in trace.events[step.first : step.last]:
        if trace.part[number] in ("activations", "logits") and (size > 0 or number not in held):
            alive += size
            most = max(most, alive)
    assert most == pytest.approx(kept(real), rel=0.1)


@pytest.mark.parametrize(
    ("model", "task", "frozen"),
    [
        ("resnet + bert: concatenation", "classify", FROZEN),
        ("wav2vec2 + llama: projection", "transcribe", {"audio": "frozen", "text": "lora", "projector": "full"}),
    ],
)
def test_towers_that_are_frozen_are_read_once(
    model: str, task: str, frozen: dict[str, Any], models: Any, folder: Path, tmp_path: Path
) -> None:
    """Then no step sees a picture or a sound: a plan of all of them training takes longer a step."""
    given = recipe(model, task, frozen, models, folder, tmp_path)
    still, whole = plan(given), plan({**given, "method": "full"})
    assert "cache" in still.phases
    assert "cache" not in whole.phases
    assert still.timing.step_flops < 0.5 * whole.timing.step_flops


def test_a_plan_of_towers_needs_no_weights_and_leaves_nothing(models: Any, folder: Path, tmp_path: Path) -> None:
    """From their configs, tokenizer and processor it is the plan that their weights would give."""
    given = recipe("vit + llama: projection", "caption", "lora", models, folder, tmp_path / "out")
    bare = {}
    for role in ("image", "text"):
        bare[role] = str(tmp_path / role)
        shutil.copytree(given["model"][role], bare[role], ignore=shutil.ignore_patterns("*.safetensors"))
    told = [plan({**given, "model": given["model"] | towers}) for towers in ({}, bare)]
    assert told[0].model["trainable"] == told[1].model["trainable"] > 0
    assert told[0].parts.keys() == told[1].parts.keys()
    assert told[0].parts["weights"] == told[1].parts["weights"]
    assert not (tmp_path / "out").exists()
