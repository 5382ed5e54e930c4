"""Answers to fixed prompts leave no trace in training, and a run that was stopped has each of them once."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers import chat_rows, final_sha256

import luthier
import tiny
from luthier.reports.console import Console


class StopsAfter(Console):
    """Asks the run to stop, as Ctrl-C or a scheduler does, after a step."""

    def __init__(self, at: int):
        super().__init__(quiet=True)
        self.at = at

    def step(self, record: dict[str, Any]) -> None:
        if record["step"] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "samples_over_time.jsonl").read_text().splitlines()]


def test_the_same_weights_with_and_without_and_stopped(
    tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout is on, in the model and in the LoRA. Stopped after step 3; what a kill would have left of step 4 goes."""
    monkeypatch.chdir(tmp_path)
    keys: dict[str, Any] = {
        "task": "chat", "model": tiny_folder("llama", attention_dropout=0.1), "method": {"lora": {"dropout": 0.2}},
        "data": {"train": tiny.write_jsonl(tmp_path / "train.jsonl", chat_rows(10)), "eval": 0.0},
        "steps": 6, "batch_size": 4, "eval_every": 2, "learning_rate": 1e-2,
    }  # fmt: skip
    samples = {"prompts": ["red", [{"role": "user", "content": "blue"}]], "max_new_tokens": 4}
    without = luthier.tune(name="without", **keys).folder
    asked = luthier.tune(name="asked", samples=samples, **keys).folder
    stopped = luthier.tune(name="stopped", samples=samples, console=StopsAfter(3), **keys)
    assert stopped.info["status"] == "stopped"
    assert [line["step"] for line in lines(stopped.folder)] == [0, 0, 2, 2]
    with (stopped.folder / "samples_over_time.jsonl").open("a") as file:
        file.write('{"step": 4, "prompt": 0, "input": "x", "answer": "torn"}\n{"step": 4, "pro')
    luthier.tune(name="stopped", samples=samples, **keys)
    assert final_sha256(without) == final_sha256(asked) == final_sha256(stopped.folder)
    assert [(line["step"], line["prompt"]) for line in lines(asked)] == [(s, p) for s in (0, 2, 4, 6) for p in (0, 1)]
    assert lines(stopped.folder) == lines(asked)
    assert not (without / "samples_over_time.jsonl").exists()
    assert {line["input"] for line in lines(asked)} == {"user: red", "user: blue"}


@pytest.mark.parametrize(
    ("prompts", "says"), [([""], "empty"), ([3], "no prompt"), ([[{"role": "user"}]], "turns"), (["red", []], "turns")]
)
def test_prompts_that_ask_nothing(prompts: list[Any], says: str, tiny_folder: Any, tmp_path: Path) -> None:
    data = {"train": tiny.write_jsonl(tmp_path / "train.jsonl", chat_rows(4)), "eval": 0.0}
    findings, _ = luthier.check(task="chat", model=tiny_folder("llama"), data=data, samples=prompts)
    (finding,) = [finding for finding in findings if finding.severity == "error"]
    assert (finding.code, says in finding.what) == ("recipe.value", True)
    assert finding.where == f"samples.prompts[{len(prompts) - 1}]"


def test_prompts_from_a_file_are_rows_of_any_conversation(tiny_folder: Any, tmp_path: Path) -> None:
    data = {"train": tiny.write_jsonl(tmp_path / "train.jsonl", chat_rows(4)), "eval": 0.0}
    rows = [
        {"prompt": "red"}, {"instruction": "red", "input": "blue"}, {"question": "blue?", "context": "red"},
        {"messages": [{"role": "user", "content": "red"}, {"role": "assistant", "content": "no"}]},
    ]  # fmt: skip
    file = tiny.write_jsonl(tmp_path / "asked.jsonl", rows)
    run = luthier.tune(
        task="chat", model=tiny_folder("llama"), data=data, samples=file, steps=1, out=str(tmp_path), max_length=120
    )
    assert [line["input"] for line in lines(run.folder)][:4] == [
        "user: red", "user: red\n\nblue", "user: red\n\nblue?", "user: red",
    ]  # fmt: skip
    assert "samples_over_time" not in run.report.read_text()
