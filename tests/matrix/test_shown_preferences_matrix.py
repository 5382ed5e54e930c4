"""Preferences about pictures: every objective, and every kind of method, on composed models and pretrained ones that
read both, and reward models of them: it learns which answer the picture makes the better one, and opens again the same,
or is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toys
from battery import assert_judged_the_same, assert_loss_fell, assert_refused, cases, of_each_step
from modalities import ANSWERED, BY_LOSS, FUSES, PREFER, REWARD
from seers import ONE_ANSWER
from table import METHODS

import families
import luthier
import tiny
from luthier.runs import training

STEPS = 24
DEFAULT = {("gates", "full"), ("llava", "lora"), ("paligemma", "lora")}
QUICK = {("early", "kto"), ("qwen2_5_vl", "simpo")}
SCORING = 0.3
SCORED = {("early", "lora"), ("smolvlm", "full"), ("paligemma", "full")}
APART: dict[tuple[str, str], dict[str, Any]] = {
    ("qwen2_5_vl", "prefix"): {"prefix": {"num_virtual_tokens": 24, "hidden": 64}, "steps": 200, "eval_every": 200}
}  # with 6 it fits what it learns from, and no other pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two colours the picture's own is the better answer, whatever is asked: no text tells which."""
    made, rows = tmp_path_factory.mktemp("pictures"), []
    for i, (image, colour) in enumerate(toys.pictures(made, ("red", "green"), 40)):
        word, other = f"the {tiny.WORDS[3 + i % 9]}", {"red": "green", "green": "red"}[colour]
        parts = [{"type": "image", "image": image}, {"type": "text", "text": f" {word}"}]
        shown = {"prompt": word, "image": image} if i % 3 else {"prompt": [{"role": "user", "content": parts}]}
        rows.append({"image": None} | shown | {"chosen": colour, "rejected": other})
    tiny.write_jsonl(made / "train.jsonl", rows[8:])
    tiny.write_jsonl(made / "eval.jsonl", rows[:8])
    return made


@pytest.fixture(scope="module")
def models(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def model(kind: str) -> Any:
        if kind not in made:
            place = tmp_path_factory.mktemp(kind)
            if kind in FUSES:
                sees = tiny.save_image_model("vit", place)
                made[kind] = {"image": sees, "text": tiny_folder("llama"), "fuse": FUSES[kind]}
            else:
                save = tiny.save_vision_language_model if kind in tiny.VISION_LANGUAGE else families.save
                made[kind] = save(kind, place)
        return made[kind]

    return model


def recipe(model: Any, objective: str, method: str, folder: Path, out: Path) -> dict[str, Any]:
    task = "reward" if objective == "bradley_terry" else "prefer"
    how = METHODS[method]
    if task == "reward" and "learning_rate" in how:  # a new head moves fast, and the rest with it
        how = how | {"learning_rate": SCORING * how["learning_rate"]}
    return {
        "task": task, "objective": objective, "model": model, "steps": STEPS, "batch_size": 32,
        "data": {side: str(folder / f"{side}.jsonl") for side in ("train", "eval")}, "eval_every": STEPS,
        "final": "last", "schedule": "constant", "warmup": 0, "out": str(out), **how,
    }  # fmt: skip


def assert_preferred(run: Any, folder: Path, *, fresh: bool) -> None:
    assert run.result["after"]["preference_accuracy"]["value"] > 0.7
    assert_judged_the_same(run, str(folder / "eval.jsonl"), fresh=fresh, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("kind", "method"), cases(PREFER.cells, DEFAULT, PREFER.refusal, wanted=False))
def test_a_working_cell(kind: str, method: str, models: Callable[[str], Any], folder: Path, tmp_path: Path) -> None:
    run = luthier.tune({**recipe(models(kind), "dpo", method, folder, tmp_path), **APART.get((kind, method), {})})
    assert_loss_fell(run)
    assert_preferred(run, folder, fresh=(kind, method) not in DEFAULT)


@pytest.mark.parametrize(("kind", "method"), cases(PREFER.cells, DEFAULT, PREFER.refusal, wanted=True))
def test_a_refused_cell(kind: str, method: str, models: Callable[[str], Any], folder: Path, tmp_path: Path) -> None:
    assert_refused(recipe(models(kind), "dpo", method, folder, tmp_path), PREFER.refusal(kind, method))


@pytest.mark.parametrize(("kind", "objective"), cases(BY_LOSS.cells, QUICK, BY_LOSS.refusal, wanted=False))
def test_an_objective(kind: str, objective: str, models: Callable[[str], Any], folder: Path, tmp_path: Path) -> None:
    run = luthier.tune(recipe(models(kind), objective, "lora", folder, tmp_path))
    assert_loss_fell(run, to=0.95)
    if objective == "kto":
        assert_judged_the_same(run, str(folder / "eval.jsonl"), fresh=(kind, objective) not in QUICK)
    else:
        assert_preferred(run, folder, fresh=(kind, objective) not in QUICK)


@pytest.mark.parametrize(("kind", "method"), cases(REWARD.cells, SCORED, REWARD.refusal, wanted=False))
def test_a_reward_model(kind: str, method: str, models: Callable[[str], Any], folder: Path, tmp_path: Path) -> None:
    run = luthier.tune(recipe(models(kind), "bradley_terry", method, folder, tmp_path))
    assert_loss_fell(run)
    assert_preferred(run, folder, fresh=(kind, method) not in SCORED)
    image = str(folder / "images/0.png")
    look = [{"type": "image", "image": image}, {"type": "text", "text": "the cat"}]
    said = {"role": "assistant", "content": "red"}
    asked = [
        {"messages": [{"role": "user", "content": look}, said]},
        {"prompt": "the cat", "completion": "red", "image": image},
        {"prompt": "the cat", "chosen": "red", "rejected": "green", "image": image},
    ]
    told = luthier.load(run.folder).predict(asked)
    assert told == run.predict(asked)
    assert told[1]["score"] == pytest.approx(told[2]["chosen"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("kind", "method"), cases(REWARD.cells, SCORED, REWARD.refusal, wanted=True))
def test_a_refused_reward_model(
    kind: str, method: str, models: Callable[[str], Any], folder: Path, tmp_path: Path
) -> None:
    assert_refused(recipe(models(kind), "bradley_terry", method, folder, tmp_path), REWARD.refusal(kind, method))


def test_a_reward_model_rewards_answers_about_pictures(
    models: Callable[[str], Any], folder: Path, tmp_path: Path
) -> None:
    """`reinforce` asks it beside the pictures of the prompt; the same answer to the same words gets another reward."""
    towers = models("projection")
    judge = luthier.tune(recipe(towers, "bradley_terry", "lora", folder, tmp_path) | {"steps": 6, "name": "judge"})
    rows = [
        {"prompt": "the cat", "final": "red", "image": str(folder / f"images/{at}.png")} for at in range(12)
    ]  # fmt: skip
    run = luthier.tune({
        "task": "reinforce", "model": towers, "data": tiny.write_jsonl(tmp_path / "asked.jsonl", rows),
        "method": "lora",
        "reinforce": {"rewards": [{"model": str(judge.folder)}]}, "steps": 2, "batch_size": 4, "out": str(tmp_path),
        "grpo": {"group_size": 4, "max_new_tokens": 2, "beta": 0.0},
    })  # fmt: skip
    task = run.predictor.task
    told = [{"ids": run.predictor.backbone.tokenizer("red")["input_ids"], "finished": True} for _ in rows]
    shown = [
        {"messages": [{"role": "user", "content": "<image>\nthe cat"}], "expected": "red", "where": "", "problem": None,
         "images": [Path(row["image"])]} for row in rows
    ]  # fmt: skip
    found = [one.total for one in task.rewarded(told, shown)]
    asked = [{"prompt": "the cat", "completion": "red", "image": row["image"]} for row in rows]
    assert found == pytest.approx([one["score"] for one in judge.predict(asked)], rel=1e-3, abs=1e-4)
    assert len({round(one, 5) for one in found}) > 1


@pytest.mark.parametrize("task", ["prefer", pytest.param("reward", marks=pytest.mark.slow)])
def test_a_template_that_was_given_is_saved_with_the_processor(
    task: str, models: Callable[[str], Any], folder: Path, tmp_path: Path
) -> None:
    objective = {"prefer": "dpo", "reward": "bradley_terry"}[task]
    keys = recipe({"name": models("llava"), "template": "plain"}, objective, "lora", folder, tmp_path)
    run = luthier.tune(keys | {"steps": 4, "eval_every": 4})
    assert_judged_the_same(run, str(folder / "eval.jsonl"), fresh=False)


def found(**keys: Any) -> set[str]:
    findings, _ = luthier.check(**keys)
    return {one.code for one in findings if one.severity == "error"}


@pytest.mark.parametrize("objective", ["dpo", "simpo"])
def test_a_model_that_does_not_look_and_one_that_reads_no_pictures(
    objective: str, models: Callable[[str], Any], folder: Path, tiny_folder: Callable[..., str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """At step 0 the loss of DPO is ln 2 whatever is seen: what tells is how likely the answers are."""
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    keys = recipe(models("llava"), objective, "lora", folder, tmp_path)
    switched = {"dpo": {"dpo": {"reference": "switched"}}, "simpo": {}}[objective]
    assert not found(**keys, **switched)
    assert "model.no-pictures" in found(**keys | {"model": tiny_folder("llama")})
    forward = LlavaMultiModalProjector.forward
    monkeypatch.setattr(LlavaMultiModalProjector, "forward", lambda self, states: 0 * forward(self, states))
    assert found(**keys) == found(**keys, **switched) == {"model.image-blind"}


def test_bad_pictures_are_told_by_row_before_the_first_step(
    models: Callable[[str], Any], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    good = {"prompt": "the cat", "chosen": "red", "rejected": "green", "image": str(folder / "images/0.png")}
    rows = [good | {"prompt": f"the {word}"} for word in tiny.WORDS]
    rows[3]["image"], rows[5]["image"] = "missing.png", str(tmp_path / "broken.png")
    rows[7]["rejected"] = "<image>"
    keys = recipe(models("projection"), "dpo", "lora", folder, tmp_path)
    keys["data"] = tiny.write_jsonl(tmp_path / "rows.jsonl", [rows[at] for at in (0, 1, 2, 3, 4, 5, 6, 8)])
    findings, _ = luthier.check(**keys)
    bad = [one for one in findings if one.severity == "error"]
    assert [(one.code, one.where.rpartition("/")[2]) for one in bad] == [
        ("data.picture", "rows.jsonl:4:image"), ("data.picture", "rows.jsonl:6:image"),
    ]  # fmt: skip
    keys["data"] = tiny.write_jsonl(tmp_path / "marked.jsonl", rows[6:9])
    assert found(**keys) == {"data.picture-marks"}


def test_what_would_move_the_reference_is_refused(models: Callable[[str], Any], folder: Path, tmp_path: Path) -> None:
    keys = recipe(models("projection"), "dpo", "lora", folder, tmp_path)
    assert found(**keys, dpo={"reference": "switched"}) == {"prefer.reference"}
    assert found(**keys, augment={"flip": 0.5}) == {"recipe.combination"}
    assert not found(**keys | {"objective": "simpo"}, augment={"flip": 0.5})


def test_every_model_of_the_tables_is_known() -> None:
    assert {*PREFER.columns} == {*FUSES, *ANSWERED, *ONE_ANSWER}


@pytest.mark.parametrize(
    ("text", "fuse", "objective", "roles"),
    [
        ("llama", "cross_attention", "dpo", {"vision": "frozen", "text": {"lora": {}, "learning_rate": 1e-2}}),
        ("bert", "concatenation", "bradley_terry", {"vision": "frozen", "text": "frozen"}),
    ],
    ids=["a tower that sees", "both towers"],
)
def test_what_still_towers_make_is_kept_for_both_answers(
    text: str, fuse: str, objective: str, roles: dict[str, Any], tiny_folder: Callable[..., str], folder: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """They read each picture, and each sequence, once before the first step; the losses are those of reading anew."""
    towers = {"image": tiny.save_image_model("vit", tmp_path / "vit"), "text": tiny_folder(text), "fuse": fuse}
    model = towers | ({"template": "plain"} if text == "bert" else {})
    keys = recipe(model, objective, "full", folder, tmp_path) | {"steps": 6, "eval_every": 6}
    keys |= {"method": roles | {"projector": {"full": {}, "learning_rate": 1e-2}}}
    del keys["learning_rate"]
    kept = luthier.tune(keys | {"name": "kept"})
    monkeypatch.setattr(training, "still_towers", lambda prepared: set())
    anew = luthier.tune(keys | {"name": "anew"})
    for one, other in zip(of_each_step(kept), of_each_step(anew), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert of_each_step(kept)[0] != pytest.approx(of_each_step(kept)[-1])
