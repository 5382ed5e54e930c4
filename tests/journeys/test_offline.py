"""From nothing to a model in use, with every socket refusing: shipped data, the starter encoder, a tiny decoder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typed import REPOSITORY, Answer, session, talker

RUN, TALK = "runs/sorted", "runs/talked"
TUNE = f"tune --json sentiment.yaml steps=12 eval_every=6 name={Path(RUN).name} data.eval=data/sentiment/small.jsonl"


@dataclass
class Journey:
    """A folder, and the answer to each line typed in it."""

    folder: Path
    answers: dict[str, Answer]


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[..., str]) -> Journey:
    folder = tmp_path_factory.mktemp("journey")
    first = {"copy": "copy --json sentiment", "again": "copy sentiment", "chats": "copy chat-lora"}
    talker(tiny_folder("llama"), folder / "tiny/llama")
    answers = dict(zip(first, session(folder, *first.values()), strict=True))
    rows = (folder / "data/sentiment/test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "data/sentiment/small.jsonl").write_text("".join(rows[:40]), encoding="utf-8")
    lines: dict[str, str | tuple[str, str]] = {
        "check": "check --json sentiment.yaml",
        "tune": TUNE,
        "tune again": TUNE,
        "tune in words": TUNE.replace(" --json", ""),
        "predict": (f"predict {RUN} --json", "A quiet film.\nTwo hours that I want back.\n"),
        "predict words": f"predict {RUN} --json good awful",
        "predict file": f"predict {RUN} --json --data data/sentiment/small.jsonl",
        "evaluate": f"evaluate {RUN} --json --data data/sentiment/small.jsonl",
        "export": f"export {RUN} merged --json",
        "embed": "embed starter:minilm --json --data data/sentiment/small.jsonl --to vectors.npy",
        "chat refused": f"chat {RUN} --json",
        "tune chat": f"tune chat-lora.yaml model=tiny/llama steps=4 name={Path(TALK).name} --json",
        "chat": (f"chat {TALK} --json --max-new-tokens 4", "Can I borrow a drill?\nAnd a saw?\n"),
        "ls": "ls --json",
        "schema": "schema",
        "rerun": f"check --json {RUN}/recipe.yaml",
    }
    answers |= dict(zip(lines, session(folder, *lines.values()), strict=True))
    return Journey(folder, answers)


def test_every_line_exits_as_it_should(journey: Journey) -> None:
    refused = {"again", "chat refused"}
    assert {name: a.code for name, a in journey.answers.items() if a.code != (2 if name in refused else 0)} == {}
    assert [name for name, answer in journey.answers.items() if "Traceback" in answer.out + answer.err] == []


def test_copy_brings_the_data_and_overwrites_nothing(journey: Journey) -> None:
    assert journey.answers["copy"].json == ["sentiment.yaml", "data/sentiment/train.jsonl", "data/sentiment/test.jsonl"]
    assert "copy.exists" in journey.answers["again"].out


def test_check_shows_rows_and_finds_nothing(journey: Journey) -> None:
    told = journey.answers["check"].json
    assert (told["ok"], told["findings"]) == (True, [])
    assert told["rows"][0]["target"] in ("positive", "negative")


def test_tune_answers_with_the_result(journey: Journey) -> None:
    told = journey.answers["tune"].json
    assert (told["run"], told["status"]) == (RUN, "finished")
    assert told["result"]["steps"] == 12
    assert told["result"]["after"]["accuracy"]["n"] == 40


def test_a_finished_run_is_not_trained_again(journey: Journey) -> None:
    again = journey.answers["tune again"].json
    assert again == journey.answers["tune"].json
    in_words = journey.answers["tune in words"].out
    assert "is done" in in_words
    assert "step 1" not in in_words


def test_the_run_folder_is_whole(journey: Journey) -> None:
    run = journey.folder / RUN
    for name in ("recipe.yaml", "run.json", "result.json", "metrics.jsonl", "samples.jsonl", "report.html",
                 "final/adapter_model.safetensors", "final/tokenizer.json", "final/README.md"):  # fmt: skip
        assert (run / name).is_file(), name
    assert not [path for path in run.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".tmp")]
    kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (kinds.count("train"), kinds.count("eval")) == (12, 2)


def test_a_sample_counts_as_changed_by_its_label_alone(journey: Journey) -> None:
    lines = (journey.folder / RUN / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    for sample in map(json.loads, lines):
        before, after = (sample[when].partition(" (")[0] for when in ("before", "after"))
        assert sample["changed"] == (before != after)


def test_the_report_is_one_file(journey: Journey) -> None:
    """Nothing in it is fetched: no script, no link to a style sheet, an image or a font."""
    html = (journey.folder / RUN / "report.html").read_text(encoding="utf-8")
    assert "<svg" in html
    assert not re.search(r"<script|<link|<iframe|<img|@import|url\(", html)
    assert not re.search(r"""(?:src|href)=["']?(?!#)""", html)


def test_predict_answers_each_input(journey: Journey) -> None:
    answers = journey.answers["predict"].json
    assert [answer["input"] for answer in answers] == ["A quiet film.", "Two hours that I want back."]
    for answer in answers:
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert [answer["input"] for answer in journey.answers["predict words"].json] == ["good", "awful"]
    assert len(journey.answers["predict file"].json) == 40


def test_evaluate_finds_what_tune_found(journey: Journey) -> None:
    found = journey.answers["evaluate"].json
    assert found["rows"] == 40
    assert found["metrics"]["accuracy"] == journey.answers["tune"].json["result"]["after"]["accuracy"]


def test_the_merged_model_answers_the_same(journey: Journey) -> None:
    told = journey.answers["export"].json
    assert told["difference"] <= told["bound"]
    assert (journey.folder / RUN / "merged/model.safetensors").is_file()


def test_embed_writes_a_vector_per_row(journey: Journey) -> None:
    told, vectors_KD = journey.answers["embed"].json, np.load(journey.folder / "vectors.npy")
    assert vectors_KD.shape == (told["rows"], told["width"]) == (40, 384)


def test_chat_answers_line_by_line(journey: Journey) -> None:
    answers = [json.loads(line) for line in journey.answers["chat"].out.splitlines()]
    assert [list(answer) for answer in answers] == [["text"], ["text"]]
    assert "run.task" in journey.answers["chat refused"].out


def test_ls_tells_what_there_is(journey: Journey) -> None:
    found = journey.answers["ls"].json
    assert {"classify", "chat", "complete"} <= {entry["name"] for entry in found["tasks"]}
    assert {"full", "freeze", "features", "lora"} <= {entry["name"] for entry in found["methods"]}
    assert {entry["name"] for entry in found["runs"]} == {RUN, TALK}
    shipped = {path.stem for path in (REPOSITORY / "src/luthier/recipes").glob("*.yaml")}
    assert {entry["name"] for entry in found["recipes"]} == shipped


def test_schema_knows_every_section(journey: Journey) -> None:
    schema = journey.answers["schema"].json
    assert {"task", "model", "data", "lora", "features", "classify"} <= schema["properties"].keys()


def test_the_resolved_recipe_runs_again(journey: Journey) -> None:
    """It lies in another folder than the recipe that it came from, and still finds its data and its model."""
    told = journey.answers["rerun"].json
    assert (told["ok"], told["findings"]) == (True, [])
