"""Summaries and translations with the real command: from rows to answers that are searched for as the recipe says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typed import session

import tiny

SOURCES = [f"{one} {two} {three}" for one in tiny.WORDS[:4] for two in tiny.WORDS[4:8] for three in tiny.WORDS[8:10]]
ROWS = {
    "translate": [{"translation": {"en": text, "de": text.partition(" ")[0]}} for text in SOURCES],
    "summarize": [{"document": text, "summary": text.partition(" ")[0]} for text in SOURCES],
}
SAID: dict[str, dict[str, Any]] = {"translate": {"source": "en", "target": "de"}, "summarize": {}}
SCORES = {"translate": "chrf", "summarize": "rouge1"}
BEST = {"translate": 100, "summarize": 1}
NEEDS = {"translate": "sacrebleu", "summarize": "rouge_score"}


@pytest.fixture(params=["translate", "summarize"])
def task(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    tiny.write_jsonl(tmp_path / "rows.jsonl", ROWS[request.param])
    return str(request.param)


def write(task: str, model: str, **changes: Any) -> None:
    recipe = {
        "task": task, "model": model, "method": {"lora": {"rank": 8}}, "steps": 60, "batch_size": 32,
        "learning_rate": 3e-2, "data": {"train": "rows.jsonl", "eval": 0.2, "split_seed": 1}, **changes,
    }  # fmt: skip
    recipe[task] = {**SAID[task], "num_beams": 3, "max_new_tokens": 8, **changes.get(task, {})}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


@pytest.mark.parametrize("model", ["t5", "llama"])
def test_from_rows_to_answers(task: str, model: str, tiny_folder: Callable[..., str]) -> None:
    pytest.importorskip(NEEDS[task])
    write(task, tiny_folder(model))
    tuned, judged, asked, short = session(
        Path.cwd(), "tune recipe.yaml name=one", "evaluate runs/one --data rows.jsonl --json",
        ("predict runs/one --json", "red dog river\nblue bird house\n"),
        ("predict runs/one --json --max-new-tokens 1", "red dog river\n"),
    )  # fmt: skip
    assert [answer.code for answer in (tuned, judged, asked, short)] == [0] * 4, tuned.out + judged.err + asked.err
    result = json.loads(Path("runs/one/result.json").read_text(encoding="utf-8"))
    assert result["after"][SCORES[task]]["value"] > BEST[task] / 2
    assert judged.json["metrics"]["loss"]["value"] < result["before"]["loss"]["value"]
    # It stops at the terminator: the targets are one word, and eight tokens would be many.
    assert [answer["text"] for answer in asked.json] == ["red", "blue"]
    assert len(short.json[0]["text"]) <= len("red")


def test_what_is_wrong_with_rows_is_told_all_at_once(task: str, tiny_folder: Callable[..., str]) -> None:
    wrong = {
        "translate": [{"translation": {"en": "red"}}, {"translation": {"en": "red", "de": "  "}}],
        "summarize": [{"document": "red"}, {"document": "red", "summary": "  "}],
    }
    tiny.write_jsonl(Path("rows.jsonl"), [*ROWS[task], *wrong[task]])
    write(task, tiny_folder("t5"))
    (checked,) = session(Path.cwd(), "check recipe.yaml --json")
    assert checked.code != 0
    lines = {found["where"].split(":")[1] for found in checked.json["findings"] if found["severity"] == "error"}
    assert lines == {str(len(ROWS[task]) + 1), str(len(ROWS[task]) + 2)}


def test_a_search_that_makes_no_sense_is_refused(task: str, tiny_folder: Callable[..., str]) -> None:
    write(task, tiny_folder("t5"), **{task: {"min_new_tokens": 9}})
    (checked,) = session(Path.cwd(), "check recipe.yaml --json")
    (found,) = [one for one in checked.json["findings"] if one["severity"] == "error"]
    assert "min_new_tokens: 9 is over max_new_tokens: 8" in found["what"]
