"""Tagging with the real command: column files in, entities out; and what is wrong with a file, all at once."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typed import session

import tiny

PLACES = tiny.WORDS[6:9]
WORDS = tiny.WORDS[:6]


def columns(rows: list[list[tuple[str, str]]]) -> str:
    """As CoNLL-2003 has them: a document's mark, four columns, a blank line between sentences."""
    text = "-DOCSTART- -X- -X- O\n\n"
    return text + "\n".join("".join(f"{word} NN X {tag}\n" for word, tag in row) for row in rows)


def sentences() -> list[list[tuple[str, str]]]:
    """A place of one word, or of two, between two other words: each once, in an order of chance."""
    names = [[(place, "B-LOC")] for place in PLACES] + [[("old", "B-LOC"), (place, "I-LOC")] for place in PLACES]
    made = [[(first, "O"), *name, (last, "O")] for first in WORDS for name in names for last in WORDS]
    random.Random(0).shuffle(made)
    return made


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Callable[..., str]) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    Path("train.conll").write_text(columns(sentences()[:36]), encoding="utf-8")
    Path("eval.conll").write_text(columns(sentences()[36:48]), encoding="utf-8")
    return {
        "task": "tag", "model": tiny_folder("bert"), "method": "lora", "steps": 30, "batch_size": 36,
        "learning_rate": 2e-2, "data": {"train": "train.conll", "eval": "eval.conll"},
    }  # fmt: skip


def test_from_column_files_to_entities(recipe: dict[str, Any]) -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    tiny.write_jsonl(Path("asked.jsonl"), [{"text": "red old house cat"}, {"tokens": ["red", "tree", "dog"]}])
    checked, tuned, judged, asked = session(
        Path.cwd(), "check recipe.yaml --json", "tune recipe.yaml name=one",
        "evaluate runs/one --data eval.conll --json",
        "predict runs/one --data asked.jsonl --json",
    )  # fmt: skip
    assert [answer.code for answer in (checked, tuned, judged)] == [0, 0, 0], checked.out + tuned.out + judged.err
    run = Path("runs/one")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["after"]["f1"]["value"] > result["before"]["f1"]["value"]
    assert judged.json["metrics"]["f1"]["value"] == result["after"]["f1"]["value"]
    assert asked.code == 0, asked.err
    first, second = asked.json
    for entity in first["entities"]:
        assert first["text"][entity["start"] : entity["end"]] == entity["text"]
    assert len(second["tags"]) == 3
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<mark" in page


def test_wrong_columns_are_named_by_line_all_at_once(recipe: dict[str, Any]) -> None:
    lines = Path("train.conll").read_text(encoding="utf-8").splitlines()
    lines[3], lines[8] = "lonely", "one two"
    Path("train.conll").write_text("\n".join(lines), encoding="utf-8")
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    (checked,) = session(Path.cwd(), "check recipe.yaml --json")
    assert checked.code != 0
    wrong = [found["where"] for found in checked.json["findings"] if found["severity"] == "error"]
    assert [where for where in wrong if where.endswith("train.conll:4")] != []
    assert [where for where in wrong if where.endswith("train.conll:9")] != []


def test_a_tag_that_training_does_not_have_is_refused(recipe: dict[str, Any]) -> None:
    text = Path("eval.conll").read_text(encoding="utf-8").replace("B-LOC", "B-LOK", 1)
    Path("eval.conll").write_text(text, encoding="utf-8")
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    (checked,) = session(Path.cwd(), "check recipe.yaml --json")
    (found,) = [one for one in checked.json["findings"] if one["code"] == "data.unknown-label"]
    assert "did you mean 'B-LOC'" in found["mend"]
