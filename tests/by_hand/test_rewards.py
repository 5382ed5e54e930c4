"""Verifiers on answers as they are written, and rewards that are none."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.data.formats.choose import recognise, to_example
from luthier.evaluate.rewards import Answer, Reward, judge, load_function, verifier
from luthier.evaluate.verifiers import last_number, normalised
from luthier.types import Example, Refused, Source


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", 42), ("The answer is 42.", 42), ("5-3 = 2", 2), ("so -3", -3), ("from 5-3", 3), ("#### 1,234", 1234),
        ("$1,234.50 in all", 1234.5), ("It costs .5", 0.5), ("x2 and 3 are 7 apples", 7), ("1,2,3", 3), ("none", None),
        ("", None), ("−4", -4), ("3.0", 3), ("1000000", 1000000), ("page 12: 3/4", 4),
    ],
)  # fmt: skip
def test_the_last_number(text: str, number: float | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("name", "answer", "expected", "setting", "reward"),
    [
        ("exact", " The  CAT. ", "the cat", "", 1), ("exact", "a cat", "the cat", "", 0),
        ("exact", "ﬁne", "fine", "", 1),
        ("contains", "So, the cat (Red, small) sat.", "cat RED", "", 1), ("contains", "redder", "red", "", 0),
        ("exact", "", "fine", "", 0), ("number", "2 + 2 = 4.0", "4", "", 1), ("number", "4, not 5", "4", "", 0),
        ("number", "four", "4", "", 0), ("number", "0.333333333", "0.3333333333", "", 1),
        ("number", "1", "no number", "", 0), ("format", "<a>1\n2</a>\n", "", "<a>.*</a>", 1),
        ("format", "so <a>1</a>", "", "<a>.*</a>", 0),
        ("after", "2 + 2 = 4\n#### 4", "4", "####", 1), ("after", "2 + 2 = 4", "4", "####", 0),
        ("after", "#### $1,200.00 in all\nor 7", "1200", "####", 1), ("after", "4\n####\n4", "4", "####", 0),
        ("after", "#### 3\n#### 4", "4", "####", 0), ("after", "#### 3 or 4", "4", "####", 0),
        ("after", "#### 4", "so 2 + 2:\n#### 4", "####", 1), ("after", "Answer: Red. \nblue", "red", "Answer:", 1),
        ("after", "red", "red", "Answer:", 0), ("after", "Answer: blue", "red", "Answer:", 0),
    ],
)  # fmt: skip
def test_a_verifier(name: str, answer: str, expected: str, setting: str, reward: int) -> None:
    assert verifier(name, setting)([[]], [answer], [expected]) == [float(reward)]


THEIRS = re.compile(r"#### (\-?[0-9\.\,]+)")  # of openai/grade-school-math, dataset.py


def test_real_solutions_are_right_where_gsm8k_reads_them_so(shared: Callable[[str], Path]) -> None:
    """Each worked solution against its own final number, and against that of the row before it."""
    with gzip.open(shared("data/gsm8k/train.jsonl.gz"), "rt") as file:
        rows = [json.loads(line) for line in file]
    answers, finals = [row["answer"] for row in rows], [row["final"] for row in rows]
    found = [THEIRS.search(answer) for answer in answers]
    read = [match[1].replace(",", "") if match else "" for match in found]
    asks = verifier("after", "####")
    assert asks([[]] * len(rows), answers, finals) == [1.0] * len(rows)
    moved = [finals[-1], *finals[:-1]]
    theirs = [float(one == wanted.replace(",", "")) for one, wanted in zip(read, moved, strict=True)]
    assert 0 < sum(theirs) < len(rows) / 10
    assert asks([[]] * len(rows), answers, moved) == theirs


def test_an_equation_of_svamp_and_its_result_after_the_marker(shared: Callable[[str], Path]) -> None:
    """Results are floats, most of them wholes: `22090603.0`, said here as `22,090,603.0`."""
    rows = [json.loads(line) for line in shared("data/svamp/svamp.jsonl").read_text().splitlines()]
    answers = [f"{row['equation']}\n#### {row['final']:,}" for row in rows]
    finals = [str(row["final"]) for row in rows]
    assert verifier("after", "####")([[]] * len(rows), answers, finals) == [1.0] * len(rows)
    assert sum(verifier("after", "####")([[]] * len(rows), [row["equation"] for row in rows], finals)) == 0


def test_normalising_leaves_what_is_only_punctuation() -> None:
    assert normalised(" ?! ") == "?!"


ANSWERS = [
    Answer([{"role": "user", "content": "?"}], text, "1", f"rows.jsonl:{at}") for at, text in enumerate("abc", 1)
]


def of(function: Any, weight: float = 1.0, name: str = "mine") -> Reward:
    return Reward(name, weight, function)


def test_several_rewards_add_up_by_weight() -> None:
    """2 · (1 if the answer is b) - 0.5 · its place in the alphabet."""
    rewards = [
        of(lambda prompts, answers, expected: [answer == "b" for answer in answers], 2.0, "b"),
        of(lambda prompts, answers, expected: [ord(answer) - 96 for answer in answers], -0.5, "place"),
    ]
    found = judge(rewards, ANSWERS)
    assert [one.total for one in found] == [-0.5, 1.0, -1.5]
    assert found[1].parts == {"b": 1.0, "place": 2.0}


def raises_on_b(prompts: Any, answers: list[str], expected: Any) -> list[float]:
    if "b" in answers:
        raise ZeroDivisionError("by hand")
    return [0.0] * len(answers)


@pytest.mark.parametrize(
    ("function", "code", "where", "told"),
    [
        (lambda p, a, e: [0.0, math.nan, 1.0], "reinforce.reward-value", "rows.jsonl:2", "nan for the answer 'b'"),
        (lambda p, a, e: [0.0, 1.0, None], "reinforce.reward-value", "rows.jsonl:3", "None for the answer 'c'"),
        (lambda p, a, e: [math.inf, 1.0, 0.0], "reinforce.reward-value", "rows.jsonl:1", "inf"),
        (lambda p, a, e: ["1", 1.0, 0.0], "reinforce.reward-value", "rows.jsonl:1", "'1'"),
        (lambda p, a, e: [0.0, 1.0], "reinforce.reward-count", "rows.jsonl:1", "2 numbers for 3 answers"),
        (lambda p, a, e: None, "reinforce.reward-count", "rows.jsonl:1", "NoneType"),
        (lambda p, a, e: 1.0, "reinforce.reward-count", "rows.jsonl:1", "float"),
        (raises_on_b, "reinforce.reward-raised", "rows.jsonl:2", "ZeroDivisionError: by hand on the answer 'b'"),
    ],
)  # fmt: skip
def test_what_is_no_reward_is_told_with_its_row(function: Any, code: str, where: str, told: str) -> None:
    sound = of(verifier("exact"), name="exact")
    with pytest.raises(Refused) as refused:
        judge([sound, of(function)], ANSWERS)
    (finding,) = refused.value.findings
    assert (finding.code, finding.where) == (code, where)
    assert told in finding.what
    assert "`mine`" in finding.what


def test_all_bad_rewards_are_told_at_once() -> None:
    with pytest.raises(Refused) as refused:
        judge([of(lambda p, a, e: [None] * 3), of(raises_on_b, name="other")], ANSWERS)
    assert [finding.where[-1] for finding in refused.value.findings] == ["1", "2", "3", "2"]


def test_a_function_is_found_in_a_file_or_a_module(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def short(prompts, answers, expected):\n    return [-len(a) for a in answers]\n")
    assert load_function("mine.py:short", tmp_path)([], ["abc"], []) == [-3]
    assert load_function("math:fsum", tmp_path) is math.fsum
    for spelled, told in (
        ("mine.py:long", "has short"), ("none.py:short", "FileNotFoundError"), ("no.such:short", "ModuleNotFound"),
    ):  # fmt: skip
        with pytest.raises(Refused) as refused:
            load_function(spelled, tmp_path)
        assert refused.value.findings[0].code == "reinforce.function"
        assert told in str(refused.value)


@pytest.mark.parametrize(
    ("row", "asked", "expected"),
    [
        ({"question": "6 * 7?", "answer": "6 * 7 = 42\n#### 42", "final": "42"}, ["user"], "42"),  # GSM8K
        ({"id": "chal-2", "question": "4 - 3?", "equation": "( 4.0 - 3.0 )", "final": 1.0}, ["user"], "1"),  # SVAMP
        ({"prompt": "6 * 7?", "expected": 2.5, "system": "Be short."}, ["system", "user"], "2.5"),
        ({"messages": [{"role": "user", "content": "6 * 7?"}], "ground_truth": " 42 "}, ["user"], "42"),
        (
            {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "final": 42},
            ["user"], "42",
        ),
    ],
)  # fmt: skip
def test_a_row_that_can_be_checked(row: dict[str, Any], asked: list[str], expected: str) -> None:
    source = Source("rows.jsonl", 1)
    assert recognise([(source, row)], prefer=("checkable",)) == "checkable"
    example = to_example(source, row, "checkable")
    assert isinstance(example, Example)
    assert [turn["role"] for turn in example.messages or []] == asked
    assert example.targets == [expected]


@pytest.mark.parametrize("final", [None, "", True, [1], math.nan, math.inf])
def test_what_no_answer_can_be_held_against_is_told(final: Any) -> None:
    found = to_example(Source("rows.jsonl", 1), {"prompt": "6 * 7?", "final": final}, "checkable")
    assert isinstance(found, list)
    assert [finding.where for finding in found] == ["rows.jsonl:1:final"]
