"""Plans: rows by hand, and what a plan with a step too few, too many or elsewhere is worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import luthier
import tiny
from luthier.data.formats.choose import recognise, to_example
from luthier.evaluate import plans
from luthier.types import Example, Finding, Source

SOURCE = Source("a.jsonl", 3)


def converted(row: dict[str, Any]) -> Example | list[Finding]:
    fmt = recognise([(SOURCE, row)], prefer=("instruction-steps",))
    assert fmt == "instruction-steps"
    return to_example(SOURCE, row, fmt)


@pytest.mark.parametrize(
    ("row", "target"),
    [
        ({"instruction": "q", "steps": ["take  it", "go"]}, "take it\ngo"),
        ({"command": "q", "actions": "I_WALK I_WALK"}, "I_WALK I_WALK"),
        ({"task": "q", "plan": [{"action": "Goto", "args": ["desk", 2]}, {"action": "Stop"}]}, "Goto desk 2\nStop"),
        ({"goal": "q", "plan": [{"action": "Goto", "args": "desk"}]}, "Goto desk"),
    ],
)
def test_rows_become_steps(row: dict[str, Any], target: str) -> None:
    example = converted(row)
    assert isinstance(example, Example), example
    assert (example.text, example.targets) == ("q", [target])


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"instruction": "q", "steps": []}, [("data.empty-target", "steps")]),
        ({"instruction": "q", "steps": "  "}, [("data.empty-target", "steps")]),
        ({"instruction": "q", "steps": None}, [("data.empty-target", "steps")]),
        ({"instruction": "q", "steps": ["go", 4, " "]}, [("data.type", "steps[1]"), ("data.empty-target", "steps[2]")]),
        ({"instruction": " ", "steps": ["go"]}, [("data.empty-target", "instruction")]),
    ],
)
def test_what_is_wrong_is_told_with_its_place(row: dict[str, Any], found: list[tuple[str, str]]) -> None:
    findings = converted(row)
    assert isinstance(findings, list)
    assert [(one.code, one.where) for one in findings] == [(code, f"a.jsonl:3:{at}") for code, at in found]


def test_steps_count_where_they_stand() -> None:
    """The reference has four steps.

    | written | right where they stand | over | accuracy |
    |---|---|---|---|
    | the same, in capitals, with more blanks | 4 | 4 | 1 |
    | the last one missing | 3 | 4 | 3/4 |
    | the first one missing: b c d against a b c d | 0 | 4 | 0 |
    | one more at the end | 4 | 5 | 4/5 |
    | nothing | 0 | 4 | 0 |
    """
    reference = ["a\nb b\nc\nd"]
    written = ["A\n b  B \nc\nd\n", "a\nb b\nc", "b b\nc\nd", "a\nb b\nc\nd\ne", ""]
    each = [plans.with_intervals([text], [reference], "\n") for text in written]
    assert [one["step_accuracy"]["value"] for one in each] == [1.0, 0.75, 0.0, 0.8, 0.0]
    assert [one["exact_match"]["value"] for one in each] == [1.0, 0.0, 0.0, 0.0, 0.0]
    both = plans.with_intervals(written, [reference] * 5, "\n")
    assert both["step_accuracy"]["value"] == pytest.approx(2.55 / 5)


def test_the_best_of_several_references_counts_and_words_may_be_steps() -> None:
    found = plans.with_intervals(["I_JUMP I_WALK"], [["I_LOOK", "I_JUMP I_JUMP"]], " ")
    assert (found["step_accuracy"]["value"], found["exact_match"]["value"]) == (0.5, 0.0)


ROWS = [
    {"instruction": f"{one} {two}", "steps": [f"the {two}", one, "river"]}
    for one in tiny.WORDS[:6] for two in tiny.WORDS[6:12]
]  # fmt: skip


@pytest.mark.parametrize("model", ["llama", pytest.param("t5", marks=pytest.mark.slow)])
def test_a_run_learns_steps(model: str, tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", ROWS)
    run = luthier.tune(
        task="plan", model=tiny_folder(model), data={"train": data, "eval": 0.2}, method="full", steps=80,
        batch_size=36, learning_rate=1e-2, out=str(tmp_path / "runs"), plan={"max_new_tokens": 16}, final="last",
        eval_every=80,
    )  # fmt: skip
    assert run.result["after"]["step_accuracy"]["value"] > 0.6, run.result["after"]
    (answer,) = luthier.load(run.folder).predict([{"instruction": "red river"}])
    assert answer["steps"] == [line.strip() for line in answer["text"].split("\n") if line.strip()]
    samples = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]
    assert {sample["right"] for sample in samples} <= {True, False}


def test_what_parts_no_steps_is_told(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """A blank parts commands only where it is said, and a tokenizer that drops the line ends can't keep steps apart."""
    rows = [{"command": row["instruction"], "actions": "I_WALK I_TURN"} for row in ROWS[:6]]
    rows[0]["actions"] = "I_WALK I_LOOK I_RUN"
    data = tiny.write_jsonl(tmp_path / "commands.jsonl", rows)
    keys: dict[str, Any] = {"task": "plan", "model": tiny_folder("llama"), "method": "lora"}
    codes = {finding.code for finding in luthier.check(data=data, **keys)[0]}
    assert "task.single-step" in codes
    codes = {finding.code for finding in luthier.check(data=data, plan={"between": " "}, **keys)[0]}
    assert "task.single-step" not in codes

    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: at for at, word in enumerate(["<pad>", "</s>", *tiny.WORDS])}
    backend = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path / "drops"
    tiny.save("llama", folder)
    dropping = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
    dropping.save_pretrained(folder)
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", ROWS)
    findings, _ = luthier.check(data=data, **keys | {"model": str(folder)})
    assert "task.between" in {finding.code for finding in findings if finding.severity == "error"}
