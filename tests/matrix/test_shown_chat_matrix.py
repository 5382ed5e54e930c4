"""Every method on conversations with pictures, for composed models and pretrained ones that read both: it runs, learns,
looks, and opens again the same, or is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toys
from battery import assert_judged_the_same, assert_loss_fell, assert_refused, cases
from modalities import CHAT, FUSES
from table import METHODS

import luthier
import tiny

STEPS = 30
CELLS, refusal = CHAT.cells, CHAT.refusal
DEFAULT = {("llava", "lora"), ("idefics3", "full"), ("gates", "adapter: pfeiffer"), ("gemma3", "prompt")}
APART: dict[tuple[str, str], dict[str, Any]] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a coloured patch; two turns ask about two pictures, and some rows have none."""
    made = tmp_path_factory.mktemp("pictures")
    shown, rows = toys.pictures(made, ("red", "green"), 40), []
    for i in range(20):
        a, b = 2 * i + i % 2, (2 * i + 1 + (i // 2) % 2) % 40
        look = [{"type": "image", "image": shown[n][0]} for n in (a, b)]
        word = tiny.WORDS[3 + i % 9]
        turns = [
            {"role": "user", "content": [look[0], {"type": "text", "text": f" the {word}"}]},
            {"role": "assistant", "content": shown[a][1]},
            {"role": "user", "content": [{"type": "text", "text": "and the "}, look[1]]},
            {"role": "assistant", "content": shown[b][1]},
        ]
        rows.append({"messages": turns})
        if i % 4 == 0:
            rows.append(
                {"messages": [{"role": "user", "content": f"{word} {i}"}, {"role": "assistant", "content": "new"}]}
            )
    tiny.write_jsonl(made / "train.jsonl", rows[5:])
    tiny.write_jsonl(made / "eval.jsonl", rows[:5])
    return made


@pytest.fixture(scope="module")
def models(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    towers = {"image": tiny.save_image_model("vit", folder / "vit"), "text": tiny_folder("llama")}
    made: dict[str, Any] = {name: towers | {"fuse": fuse} for name, fuse in FUSES.items()}
    return made | {kind: tiny.save_vision_language_model(kind, folder / kind) for kind in tiny.VISION_LANGUAGE}


def recipe(model: str, method: str, models: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    return {
        "task": "chat", "model": models[model], "steps": STEPS, "batch_size": 32, "eval_every": STEPS, "out": str(out),
        "data": {side: str(folder / f"{side}.jsonl") for side in ("train", "eval")}, "final": "last",
        "schedule": "constant", "warmup": 0, **METHODS[method], **APART.get((model, method), {}),
    }  # fmt: skip


@pytest.mark.parametrize(("model", "method"), cases(CELLS, DEFAULT, refusal, wanted=False))
def test_a_working_cell(model: str, method: str, models: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    run = luthier.tune(**recipe(model, method, models, folder, tmp_path))
    assert_loss_fell(run)
    again = luthier.load(run.folder)
    assert_judged_the_same(run, str(folder / "eval.jsonl"), fresh=(model, method) not in DEFAULT)
    messages = [{"role": "user", "content": [{"type": "image", "path": str(folder / "images/0.png")},
                                             {"type": "text", "text": " the cat"}]}]  # fmt: skip
    asked = [{"messages": messages}, {"prompt": "the cat", "image": str(folder / "images/1.png")}]
    assert again.predict(asked, max_new_tokens=3) == run.predict(asked, max_new_tokens=3)


@pytest.mark.parametrize(("model", "method"), cases(CELLS, DEFAULT, refusal, wanted=True))
def test_a_refused_cell(model: str, method: str, models: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    assert_refused(recipe(model, method, models, folder, tmp_path), refusal(model, method))


def test_pictures_are_never_cut(models: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    """Two pictures of 16 tokens each, and 40 tokens: a row that a cut would take a picture of is told."""
    keys = recipe("llava", "lora", models, folder, tmp_path)
    for overlong in ("truncate", "split"):
        findings, _ = luthier.check(**keys | {"max_length": 40, "overlong": overlong})
        assert "data.picture-room" in {one.code for one in findings if one.severity == "error"}
    findings, prepared = luthier.check(**keys)
    assert not [one for one in findings if one.severity == "error"]
    marker = prepared.backbone.mark_id
    for row in prepared.train.rows:
        assert row["input_ids"].count(marker) == 16 * len(row.get("pictures", ()))
        assert not any(said for token, said in zip(row["input_ids"], row["supervised"], strict=True) if token == marker)


def test_a_model_that_does_not_look_and_one_that_reads_no_pictures(
    models: dict[str, Any], folder: Path, tiny_folder: Callable[..., str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    keys = recipe("llava", "lora", models, folder, tmp_path)
    findings, _ = luthier.check(**keys | {"model": tiny_folder("llama")})
    assert "model.no-pictures" in {one.code for one in findings if one.severity == "error"}
    forward = LlavaMultiModalProjector.forward
    monkeypatch.setattr(LlavaMultiModalProjector, "forward", lambda self, states: 0 * forward(self, states))
    findings, _ = luthier.check(**keys)
    assert "model.image-blind" in {one.code for one in findings if one.severity == "error"}
