"""A student of a teacher with the real command, from the teacher's run to the report; and what is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typed import session

import tiny

COLOURS = tiny.WORDS[:2]


def texts(count: int) -> list[tuple[str, str]]:
    """(text, the colour in it), no two alike."""
    draw, found = random.Random(0), {}
    while len(found) < count:
        words = draw.choices(tiny.WORDS[3:], k=draw.randint(2, 6))
        colour = COLOURS[len(found) % 2]
        words.insert(draw.randint(0, len(words)), colour)
        found[" ".join(words)] = colour
    return list(found.items())


def chats(rows: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"the {colour}"}]}
        for text, colour in rows
    ]


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Callable[..., str]) -> Path:
    """big.yaml tunes a teacher; small.yaml a student of it: classify and chat."""
    monkeypatch.chdir(tmp_path)
    rows = texts(48)
    tiny.write_jsonl(Path("classify.jsonl"), [{"text": text, "label": colour} for text, colour in rows[:40]])
    tiny.write_jsonl(Path("classify-eval.jsonl"), [{"text": text, "label": colour} for text, colour in rows[40:]])
    tiny.write_jsonl(Path("chat.jsonl"), chats(rows[:40]))
    tiny.write_jsonl(Path("chat-eval.jsonl"), chats(rows[40:]))
    for task, name in (("classify", "bert"), ("chat", "llama")):
        common = {
            "task": task, "batch_size": 40, "schedule": "constant", "warmup": 0, "final": "last", "eval_every": 10,
            "data": {"train": f"{task}.jsonl", "eval": f"{task}-eval.jsonl"},
        }  # fmt: skip
        big = {"model": tiny_folder(name), "method": "full", "learning_rate": 5e-3, "steps": 30, "name": f"{task}-big"}
        small = {
            "model": tiny_folder(name, seed=1, num_hidden_layers=1), "method": "lora", "learning_rate": 2e-2,
            "steps": 20, "name": f"{task}-small", "distill": {"teacher": f"runs/{task}-big"},
        }  # fmt: skip
        Path(f"{task}-big.yaml").write_text(yaml.safe_dump(common | big), encoding="utf-8")
        Path(f"{task}-small.yaml").write_text(yaml.safe_dump(common | small), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("task", ["classify", "chat"])
def test_from_a_teacher_to_a_student(task: str, recipes: Path) -> None:
    big, checked, planned, small, judged, asked = session(
        recipes, f"tune {task}-big.yaml", f"check {task}-small.yaml --json", f"plan {task}-small.yaml --json",
        f"tune {task}-small.yaml", f"evaluate runs/{task}-small --data {task}-eval.jsonl --json",
        f"predict runs/{task}-small 'red tree' --json",
    )  # fmt: skip
    assert big.code == checked.code == planned.code == 0, big.err + checked.out + planned.out
    assert small.code == 0, small.out + small.err
    result = json.loads((recipes / f"runs/{task}-small/result.json").read_text(encoding="utf-8"))
    teacher = json.loads((recipes / f"runs/{task}-big/result.json").read_text(encoding="utf-8"))
    for name, value in teacher["after"].items():
        assert result["teacher"]["metrics"][name]["value"] == pytest.approx(value["value"], rel=1e-5), name
    first, last, theirs = (
        metrics[result["metric"]]["value"]
        for metrics in (result["before"], result["after"], result["teacher"]["metrics"])
    )
    assert result["teacher"]["closed"] == pytest.approx((last - first) / (theirs - first))
    assert result["teacher"]["closed"] > 0.2
    records = [json.loads(line) for line in (recipes / f"runs/{task}-small/metrics.jsonl").read_text().splitlines()]
    trained = [record for record in records if record["kind"] == "train"]
    for record in trained:
        assert record["loss"] == pytest.approx((record["divergence"] + record["cross_entropy"]) / 2, rel=1e-4)
    assert trained[-1]["divergence"] < 0.7 * trained[0]["divergence"]
    assert "The teacher runs/" in small.out
    page = (recipes / f"runs/{task}-small/report.html").read_text(encoding="utf-8")
    assert "Student and teacher on the same rows" in page
    assert judged.json["metrics"][result["metric"]]["value"] == pytest.approx(last, rel=1e-6)
    assert asked.code == 0, asked.err
    assert planned.json["model"]["parameters"] > 0


def found(recipes: Path, words: str) -> dict[str, Any]:
    (checked,) = session(recipes, f"check {words} --json")
    assert checked.code == 2, checked.out
    (error,) = [one for one in checked.json["findings"] if one["severity"] == "error"]
    return error


def test_a_teacher_that_can_not_teach_is_refused(recipes: Path, tiny_folder: Callable[..., str]) -> None:
    """Not there; another vocabulary; an encoder-decoder for a decoder; a head that was never trained; no base left."""
    assert found(recipes, "chat-small.yaml distill.teacher=runs/none/at/all")["code"] == "distill.teacher"
    (recipes / "other").mkdir()
    shutil.copytree(tiny_folder("llama"), recipes / "other", dirs_exist_ok=True)
    vocabulary = json.loads((recipes / "other/tokenizer.json").read_text(encoding="utf-8"))
    ids = vocabulary["model"]["vocab"]
    one, two = sorted(ids)[100:102]
    ids[one], ids[two] = ids[two], ids[one]
    (recipes / "other/tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    error = found(recipes, "chat-small.yaml distill.teacher=other")
    assert error["code"] == "distill.vocabulary"
    assert error["what"].startswith("2 of the student's")
    assert "distill.answers: true" in error["mend"]
    error = found(recipes, f"chat-small.yaml distill.teacher={tiny_folder('t5')}")
    assert error["code"] == "distill.kind"
    error = found(recipes, f"classify-small.yaml distill.teacher={tiny_folder('bert', seed=3)}")
    assert error["code"] == "distill.teacher"
    assert "no trained head" in error["what"]
    assert found(recipes, "classify-small.yaml distill.teacher=base")["code"] == "distill.teacher"
    error = found(recipes, "chat-small.yaml distill.teacher=base method=full learning_rate=1e-3")
    assert "changes the weights themselves" in error["what"]


def test_other_classes_and_a_method_that_hears_no_teacher_are_refused(recipes: Path) -> None:
    (big,) = session(recipes, "tune classify-big.yaml steps=1")
    assert big.code == 0, big.err
    renamed = (recipes / "classify.jsonl").read_text(encoding="utf-8").replace('"label": "red"', '"label": "crimson"')
    (recipes / "classify.jsonl").write_text(renamed, encoding="utf-8")
    error = found(recipes, "classify-small.yaml data.eval=0.2")
    assert error["code"] == "distill.classes"
    assert "lacks 'crimson' and also has 'red'" in error["what"]
    renamed = renamed.replace("crimson", "red")
    (recipes / "classify.jsonl").write_text(renamed, encoding="utf-8")
    assert found(recipes, "classify-small.yaml method=features")["code"] == "distill.method"


def test_a_teacher_that_is_no_better_is_told(recipes: Path) -> None:
    """A chat model that has learned nothing yet teaches the very model that it is."""
    name = yaml.safe_load((recipes / "chat-small.yaml").read_text(encoding="utf-8"))["model"]
    (tuned,) = session(recipes, f"tune chat-small.yaml steps=2 distill.teacher={name}")
    assert tuned.code == 0, tuned.err
    assert "distill.weak-teacher" in tuned.out
    assert "no better than the student before training" in tuned.out
    result = json.loads((recipes / "runs/chat-small/result.json").read_text(encoding="utf-8"))
    assert [one["code"] for one in result["findings"] if one["severity"] == "warning"] == ["distill.weak-teacher"]
    assert result["teacher"]["metrics"]["loss"]["value"] == result["before"]["loss"]["value"]


def test_a_run_that_was_stopped_does_not_go_on_under_another_teacher(
    recipes: Path, tiny_folder: Callable[..., str]
) -> None:
    """The teacher's folder holds other weights by now: refused; with the first ones back the run goes on."""
    teachers = [Path(tiny_folder("llama", seed=seed)) for seed in (5, 6)]
    here = recipes / "teacher"
    shutil.copytree(teachers[0], here)
    words = "chat-small.yaml distill.teacher=teacher steps=4"
    (first,) = session(recipes, f"tune {words}")
    assert first.code == 0, first.err
    info = json.loads((recipes / "runs/chat-small/run.json").read_text(encoding="utf-8"))
    (recipes / "runs/chat-small/run.json").write_text(json.dumps(info | {"status": "stopped"}), encoding="utf-8")
    shutil.copyfile(teachers[1] / "model.safetensors", here / "model.safetensors")
    (refused,) = session(recipes, f"tune {words} --json")
    assert refused.code == 2
    assert "distill.teacher-changed" in refused.out + refused.err
    shutil.copyfile(teachers[0] / "model.safetensors", here / "model.safetensors")
    (again,) = session(recipes, f"tune {words}")
    assert again.code == 0, again.err
    assert not (recipes / "runs/chat-small-2").exists()


def test_a_teacher_writes_what_is_learned(
    recipes: Path,
) -> None:
    """The rows' own answers are replaced, each answer is kept in the run, and cut ones are counted, not learned.

    Killed midway (a torn line) the file is gone on with, to the same answers.
    """
    (big,) = session(recipes, "tune chat-big.yaml steps=60")
    assert big.code == 0, big.err
    words = "chat-small.yaml distill.answers=true distill.max_new_tokens=12 steps=2"
    checked, first = session(recipes, f"check {words} --json", f"tune {words} name=one")
    assert checked.code == 0, checked.out
    assert "distill.answers" in [one["code"] for one in checked.json["findings"]]
    assert first.code == 0, first.out + first.err
    result = json.loads((recipes / "runs/one/result.json").read_text(encoding="utf-8"))
    told = result["data"]["train"]["answers"]
    assert told["asked"] == 40 == told["learned"] + told["empty"] + told["unfinished"]
    assert result["data"]["train"]["used"] == told["learned"]
    written = (recipes / "runs/one/answers.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in written.splitlines()]
    assert len(lines) == 40
    asked = [json.loads(line)["messages"][:1] for line in (recipes / "chat.jsonl").read_text().splitlines()]
    tiny.write_jsonl(recipes / "asked.jsonl", [{"messages": turns} for turns in asked])
    (answers,) = session(recipes, "predict runs/chat-big --data asked.jsonl --json")
    assert [line["text"] for line in lines] == [answer["text"] for answer in answers.json]
    (kept,) = (recipes / "runs/.cache").glob("answers-*.jsonl")
    kept.write_text(written[: len(written) // 2], encoding="utf-8")
    (second,) = session(recipes, f"tune {words} name=two")
    assert second.code == 0, second.err
    assert kept.read_text(encoding="utf-8") == written
