"""Conversations with the real command: a system turn, rows split at turns, mixed sets, answers over time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typed import session

import tiny

ASKED = ["red", "<b>blue</b> & green"]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Callable[..., str]) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    answers = dict(zip(tiny.WORDS[:7], tiny.WORDS[7:], strict=True))
    rows = [{"instruction": word, "instances": [{"input": "", "output": said}]} for word, said in answers.items()]
    tiny.write_jsonl(tmp_path / "short.jsonl", rows)
    turns = [
        {"from": who, "value": text}
        for word, said in answers.items()
        for who, text in (("human", f"and {word}"), ("gpt", said))
    ]
    tiny.write_jsonl(tmp_path / "long.jsonl", [{"conversations": turns}])
    return {
        "task": "chat", "model": tiny_folder("llama"), "method": "lora", "batch_size": 4, "steps": 6, "eval_every": 2,
        "max_length": 48, "overlong": "split", "chat": {"system": "the"},
        "data": {"train": [{"path": "short.jsonl", "share": 3}, {"path": "long.jsonl", "share": 1}], "eval": 0.0},
        "samples": {"prompts": ASKED, "max_new_tokens": 4},
    }  # fmt: skip


def test_from_rows_to_a_report_with_answers_over_time(recipe: dict[str, Any]) -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    checked, tuned, talked = session(
        Path.cwd(), "check recipe.yaml --json", "tune recipe.yaml name=one", ("chat runs/one", "red\n")
    )
    assert [answer.code for answer in (checked, tuned, talked)] == [0, 0, 0], checked.out + tuned.out + talked.err
    told = {finding["code"]: finding["what"] for finding in checked.json["findings"]}
    assert "8 of 8 rows that have none" in told["data.system"]
    assert "1 of 8 rows are over 48 tokens" in told["data.too-long"]
    assert "split at turns into" in told["data.too-long"]
    run = Path("runs/one")
    lines = read_lines(run / "samples_over_time.jsonl")
    assert [(line["step"], line["prompt"]) for line in lines] == [(s, p) for s in (0, 2, 4, 6) for p in (0, 1)]
    assert lines[1]["input"] == f"user: {ASKED[1]}"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Answers over time" in page
    assert "&lt;b&gt;blue&lt;/b&gt; &amp; green" in page
    assert "<b>blue</b>" not in page
    sets = json.loads((run / "result.json").read_text())["data"]["train"]["sets"]
    assert [one["share"] for one in sets] == pytest.approx([0.75, 0.25], abs=0.1)
