"""Pretrained families that read pictures and write, by their own processors: captions, answers and conversations are
learned by full and by LoRA, as a whole and by role; pictures stand whole in their rows and are heeded; a run opens
again the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toys
from battery import assert_judged_the_same, assert_loss_fell, assert_refused, cases
from seers import CELLS, LORA, METHODS, refusal

import families
import luthier
import tiny

STEPS = 24
DEFAULT = {
    ("smolvlm", "chat", "full"), ("qwen2_vl", "vqa", "vision lora, text lora"),
    ("qwen3_vl", "caption", "full"), ("paligemma", "vqa", "full"), ("paligemma", "chat", "lora"),
    ("vit-gpt2", "caption", "lora"), ("vit-gpt2", "vqa", "full"), ("donut", "vqa", "lora"),
    ("vit-bert", "chat", "full"), ("blip-2", "vqa", "vision lora, text lora"), ("blip-2", "chat", "lora"),
    ("blip-2-t5", "vqa", "lora"), ("instructblip", "vqa", "full"),
    ("instructblip-t5", "vqa", "vision frozen, text full"), ("blip-2-t5", "chat", "full"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a coloured patch, of two shapes: with a caption, a question, and a conversation about two."""
    made = tmp_path_factory.mktemp("pictures")
    rows: dict[str, list[dict[str, Any]]] = {"caption": [], "vqa": [], "chat": []}
    shown = toys.pictures(made, ("red", "green"), 40)
    for i, (image, colour) in enumerate(shown):
        rows["caption"].append({"image": image, "caption": f"the {colour}"})
        rows["vqa"].append({"image": image, "question": f"the {tiny.WORDS[3 + i % 9]} and the", "answer": colour})
        other, said = shown[(i * 7 + 3 + i // 2 % 2) % 40]
        parts = [{"type": "image", "image": image}, {"type": "text", "text": " the cat"}]
        turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": colour}]
        turns += [
            {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "image", "image": other}]},
            {"role": "assistant", "content": said},
        ]  # fmt: skip
        rows["chat"].append({"messages": turns if i % 3 else turns[:2]})
    rows["chat"].append({"messages": [{"role": "user", "content": "cat"}, {"role": "assistant", "content": "new"}]})
    for task, some in rows.items():
        tiny.write_jsonl(made / f"{task}-train.jsonl", some[8:])
        tiny.write_jsonl(made / f"{task}-eval.jsonl", some[:8])
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def model(kind: str) -> str:
        if kind not in made:
            save = tiny.save_vision_language_model if kind in tiny.VISION_LANGUAGE else families.save
            made[kind] = save(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return model


def recipe(model: str, task: str, method: str, folder: Path, out: Path) -> dict[str, Any]:
    tags = families.DONUT if task == "vqa" and "donut" in Path(model).name else {}
    return {
        "task": task, "model": model, "steps": STEPS, "batch_size": 33, "eval_every": STEPS, "final": "last",
        "data": {side: str(folder / f"{task}-{side}.jsonl") for side in ("train", "eval")}, "out": str(out),
        "schedule": "constant", "warmup": 0, **METHODS[method],
        **({} if task == "chat" else {task: {"max_new_tokens": 4} | tags}),
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "task", "method"), cases(CELLS, DEFAULT, refusal, wanted=False))
def test_a_working_cell(kind: str, task: str, method: str, models: Any, folder: Path, tmp_path: Path) -> None:
    keys = recipe(models(kind), task, method, folder, tmp_path)
    run = luthier.tune(**keys)
    assert_loss_fell(run)
    assert_judged_the_same(run, keys["data"]["eval"], fresh=(kind, task, method) not in DEFAULT)
    shown = {"prompt": "the cat", "image": str(folder / "images/0.png")}
    assert run.predict([shown], max_new_tokens=2) == luthier.load(run.folder).predict([shown], max_new_tokens=2)


@pytest.mark.parametrize(("kind", "task", "method"), cases(CELLS, DEFAULT, refusal, wanted=True))
def test_a_refused_cell(kind: str, task: str, method: str, models: Any, folder: Path, tmp_path: Path) -> None:
    assert_refused(recipe(models(kind), task, method, folder, tmp_path), refusal(kind, task, method))


@pytest.mark.parametrize("method", [
    {"vision": "frozen", "projector": {"full": {}, "learning_rate": 3e-3}, "decoder": LORA},
    pytest.param(
        {"encoder": LORA, "decoder": LORA, "vision": "frozen", "projector": "frozen"}, marks=pytest.mark.slow
    ),
])  # fmt: skip
def test_both_stacks_of_one_with_an_encoder_inside(method: Any, models: Any, folder: Path, tmp_path: Path) -> None:
    """Roles of their own: what is frozen stays as it came, and all else that was chosen moves."""
    keys = recipe(models("instructblip-t5"), "vqa", "lora", folder, tmp_path) | {"method": method}
    run = luthier.tune(**{key: value for key, value in keys.items() if key not in LORA})
    assert_loss_fell(run)
    assert_judged_the_same(run, keys["data"]["eval"], fresh=False)


@pytest.mark.parametrize("kind", [*families.FILMS, *families.PREFIX, *families.LEADING])
def test_pictures_stand_whole_and_are_never_learned(kind: str, models: Any, folder: Path, tmp_path: Path) -> None:
    """As many of its tokens as its own processor writes for them; where there is no room for them it is told."""
    keys = recipe(models(kind), "vqa", "lora", folder, tmp_path)
    findings, prepared = luthier.check(**keys)
    assert not [one for one in findings if one.severity == "error"]
    backbone, processor = prepared.backbone, families.processor(kind, models(kind))
    from PIL import Image

    for row, example in zip(prepared.train.rows, prepared.train.examples, strict=True):
        made = processor(
            text=f"{backbone.mark if kind not in families.LEADING else ''}x",
            images=[Image.open(example.images[0])],
            return_tensors="np",
        )
        (wanted,) = (list(ids).count(backbone.image_id) for ids in made["input_ids"])
        at = [place for place, token in enumerate(row["input_ids"]) if token == backbone.image_id]
        assert len(at) == wanted > 0
        assert not any(row["supervised"][place] for place in at if "supervised" in row)
        assert backbone.image_id not in row.get("target_ids", [])
    taken = max(len(row["input_ids"]) for row in prepared.train.rows)
    long = [{"image": str(folder / "images/0.png"), "question": "the cat " * 40, "answer": "red"}]
    keys["data"] = tiny.write_jsonl(tmp_path / "long.jsonl", long * 4)
    findings, prepared = luthier.check(**keys, max_length=taken)
    assert not [one for one in findings if one.severity == "error"]
    for row in prepared.train.rows:
        assert len(row["input_ids"]) == taken
        assert row["input_ids"].count(backbone.image_id) == wanted
    findings, _ = luthier.check(**keys, max_length=wanted)
    assert "data.picture-room" in {one.code for one in findings if one.severity == "error"}
