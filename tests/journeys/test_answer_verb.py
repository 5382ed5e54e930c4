"""Answers with the real command: SQuAD's rows in, spans of the context out; bad rows told; real questions."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typed import session

import luthier
import tiny


def rows() -> list[dict[str, Any]]:
    made = []
    for at in range(24):
        words = [tiny.WORDS[3 + (at + k * k) % 11] for k in range(6)]
        context = f"{' '.join(words)} {at}"
        answers = {"text": [words[at % 6]], "answer_start": [context.index(words[at % 6])]}
        made.append({"context": context, "question": f"the {at}", "answers": answers})
    return made


def test_bad_rows_are_told_all_at_once(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """Not in its context, an empty context, no question, a wrong place (mended and counted), and a very long row."""
    good = rows()
    good[0]["answers"]["answer_start"] = [1]
    absent = good[1] | {"answers": {"text": ["zebra"], "answer_start": [0]}}
    empty, silent = good[2] | {"context": " "}, good[3] | {"question": ""}
    long = {"context": "tree house " * 50_000 + "red", "question": "which?", "answers": ["red"]}
    tiny.write_jsonl(tmp_path / "rows.jsonl", [*good[:1], absent, empty, silent, long, *good[4:]])
    words = f"--task answer --model {tiny_folder('bert')} --data rows.jsonl data.eval=0 max_length=40"
    (checked,) = session(tmp_path, f"check {words}")
    assert checked.code == 2
    told = " ".join(checked.out.split())
    assert "rows.jsonl:2:answers: 'zebra' does not stand in the context" in told
    assert "rows.jsonl:3:context" in told
    assert "rows.jsonl:4:question" in told
    assert "2 answer(s) have no place" in told


def test_real_questions_are_read_as_they_are(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """XQuAD's file trains; its answers are cut from their contexts, and a row that is asked gets one."""
    source = shared("data/xquad_en/qa.jsonl.gz")
    with gzip.open(source, "rt", encoding="utf-8") as file:
        some = [json.loads(line) for _, line in zip(range(40), file, strict=False)]
    tiny.write_jsonl(tmp_path / "some.jsonl", some)
    words = "--task answer --model starter:minilm --data some.jsonl --method lora data.eval=0.3 steps=2 max_length=256"
    tuned, evaluated = session(tmp_path, f"tune {words} name=asked", "evaluate runs/asked --data some.jsonl --json")
    assert tuned.code == 0, tuned.err
    assert {"f1", "exact_match", "loss"} <= evaluated.json["metrics"].keys()
    run = luthier.load(tmp_path / "runs/asked")
    (answer,) = run.predict([{"question": some[0]["question"], "context": some[0]["context"]}])
    assert some[0]["context"][answer["start"] : answer["end"]] == answer["answer"]
    (refused,) = session(tmp_path, "predict runs/asked who?")
    assert refused.code == 2
    assert "run.question" in refused.out


def test_a_model_that_writes_answers_open_questions(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    asked = [{"question": f"the {at} cat", "answers": [tiny.WORDS[at % 9], "dog"]} for at in range(24)]
    tiny.write_jsonl(tmp_path / "rows.jsonl", asked)
    words = f"--task answer --model {tiny_folder('llama')} --data rows.jsonl data.eval=0.3 steps=2 answer.kind=write"
    (tuned,) = session(tmp_path, f"tune {words} name=written")
    assert tuned.code == 0, tuned.err
    result = json.loads((tmp_path / "runs/written/result.json").read_text())
    assert {"loss", "f1", "exact_match"} <= result["after"].keys()
    (answer,) = luthier.load(tmp_path / "runs/written").predict(["the 3 cat"])
    assert isinstance(answer["text"], str)
