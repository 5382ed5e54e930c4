"""Answers: what counts as right, where an answer lies in windows, and the loss of both its places."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from luthier.data.collate import lay_out
from luthier.data.formats.choose import recognise, to_example
from luthier.evaluate.answers import exact, f1, normalised, plain, scores, with_intervals
from luthier.objectives.span import Objective, Options, best_spans
from luthier.tasks.answer import Options as TaskOptions
from luthier.tasks.answer import Task
from luthier.tasks.extract import _nearest, _target
from luthier.types import Example, Source

SOURCE = Source("rows.jsonl", 1)


def test_texts_are_compared_as_squad_compares_them() -> None:
    assert normalised("The  U.S. of A-team, an answer!") == "us of ateam answer"
    assert exact("the Cat.", "cat") == 1
    assert exact("a cats", "cat") == 0


def test_f1_by_hand() -> None:
    """`old red red house` and `red house red barn`: 3 words shared of 4 and 4, F1 = 6 / 8."""
    assert f1("the old red red house", "red house, red barn") == pytest.approx(0.75)
    assert (f1("", ""), f1("", "x"), f1("x", "y")) == (1, 0, 0)


def test_of_several_right_answers_the_best_counts() -> None:
    assert scores("Bell", ["Alexander Graham Bell", "Bell"]) == (1, 1)
    assert scores("", []) == (1, 1)
    assert scores("something", []) == (0, 0)
    assert plain(["Bell", "x y"], [["Bell"], ["y"]]) == {"f1": pytest.approx((1 + 2 / 3) / 2), "exact_match": 0.5}
    found = with_intervals(["Bell", ""], [["Bell"], []])
    assert found["f1: answerable"]["value"] == found["f1: unanswerable"]["value"] == 1


def test_loss_of_two_windows() -> None:
    """Window 0 has the answer at tokens 1 to 2: p(start) = 1/2, p(end) = 1/4. Window 1 has it not: p = 1/3 both.

    L = ½(ln 2 + ln 4) · 2 + ½(ln 3 + ln 3) = 3 ln 2 + ln 3, with weights 2 and 1; count 3. What pads hold is not read.
    """
    none = -torch.inf
    first = [[0.0, math.log(3)], [math.log(2), math.log(2)], [0.0, math.log(2)], [none, 0.0]]
    second = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [99.0, 99.0]]
    logits_T2 = torch.tensor([*first, *second])
    backbone: Any = SimpleNamespace(
        hidden=lambda batch: logits_T2, position_logits=lambda hidden: hidden,
        lay_out=lambda rows: lay_out(rows, "padded"),
    )  # fmt: skip
    places: list[Any] = [None, (0, 3), (4, 7), (8, 9)]
    rows = [
        {"row": 0, "input_ids": [1, 2, 3, 4], "target": (1, 2), "offsets": places, "longest": 9, "weight": 2.0},
        {
            "row": 0,
            "input_ids": [1, 2, 3],
            "target": (0, 0),
            "offsets": [None, None, None],
            "longest": 9,
            "weight": 1.0,
        },
    ]
    objective = Objective(Options(), backbone, lambda example: [])
    batch = objective.collate(rows)
    terms = objective.loss(backbone, batch)
    assert float(terms.total) == pytest.approx(3 * math.log(2) + math.log(3))
    assert terms.count == 3
    ours, other = objective.outputs(backbone, batch)
    assert ours["nll"] == pytest.approx(1.5 * math.log(2))
    assert other["spans"] == []


def test_the_best_span_ends_after_it_begins_and_stays_in_the_context() -> None:
    """Alone, start 3 and end 1 are best; together a span must run forward, of at most two tokens, and not into the
    question (token 0): 2 to 3 with 1 + 2."""
    start_L, end_L = torch.tensor([9.0, 0.0, 1.0, 5.0]), torch.tensor([9.0, 6.0, 0.0, 2.0])
    offsets_L2 = torch.tensor([[-1, -1], [0, 2], [3, 5], [6, 9]])
    found = best_spans(start_L, end_L, offsets_L2, longest=2)
    assert found[:3] == [(7.0, 6, 9), (6.0, 0, 2), (3.0, 3, 9)]
    assert all(first < last for _, first, last in found)
    assert (1.0, 0, 9) not in found


def test_places_of_an_answer() -> None:
    """Tokens `the` `old` `house` at 0–3, 4–7, 8–13 after two of the question."""
    offsets = [None, None, (0, 3), (4, 7), (8, 13), None]
    assert _target(offsets, [(4, 13, "old house")]) == (3, 4)
    assert _target(offsets, [(4, 20, "old house and")]) == (0, 0)
    assert _target(offsets, []) == (0, 0)
    assert (_nearest("a b a b", "b", 5), _nearest("a b a b", "b", -1), _nearest("a", "z", 0)) == (6, 2, -1)


def test_rows_as_squad_has_them() -> None:
    row = {"context": "Ada wrote it.", "question": "Who?", "answers": {"text": ["Ada"], "answer_start": [0]}}
    assert recognise([(SOURCE, row)]) == "squad"
    asked = Example(SOURCE, text="Ada wrote it.", question="Who?", targets=["Ada"], spans=[(0, 3, "Ada")])
    assert to_example(SOURCE, row, "squad") == asked
    none = to_example(SOURCE, row | {"answers": {"text": [], "answer_start": []}}, "squad")
    assert isinstance(none, Example)
    assert (none.targets, none.spans) == ([], [])
    flat = to_example(SOURCE, {"contexts": ["One.", "Two."], "question": "Is it?", "answer": "yes"}, "squad")
    assert isinstance(flat, Example)
    assert (flat.text, flat.targets, flat.spans) == ("One.\n\nTwo.", ["yes"], [(-1, 2, "yes")])
    open_ = to_example(SOURCE, {"question": "Who?", "answers": ["Ada", "Ada L."]}, "open-question")
    assert open_ == Example(SOURCE, question="Who?", targets=["Ada", "Ada L."])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"answers": {"text": ["Ada"], "answer_start": []}}, "data.type"),
        ({"answers": [3]}, "data.type"),
        ({"answers": [" "]}, "data.empty-target"),
        ({"context": " "}, "data.empty-text"),
        ({"context": 3}, "data.type"),
        ({"question": ""}, "data.empty-target"),
    ],
)
def test_a_bad_row_is_told(change: dict[str, Any], code: str) -> None:
    row = {"context": "Ada wrote it.", "question": "Who?", "answers": ["Ada"]} | change
    found = to_example(SOURCE, row, "squad")
    assert isinstance(found, list)
    assert code in {finding.code for finding in found}


def test_a_wrong_place_is_mended_and_counted_and_what_is_not_there_is_told() -> None:
    task = Task(TaskOptions())
    text = "Ada wrote it, and Ada signed it."
    wrong = Example(SOURCE, text=text, question="?", targets=["Ada"], spans=[(17, 20, "Ada")])
    untold = Example(SOURCE, text=text, question="?", targets=["wrote"], spans=[(-1, 4, "wrote")])
    absent = Example(Source("rows.jsonl", 3), text=text, question="?", targets=["Bob"], spans=[(0, 3, "Bob")])
    findings = task.study([wrong, untold, absent], [])
    assert wrong.spans == [(18, 21, "Ada")]
    assert untold.spans == [(4, 9, "wrote")]
    assert [finding.code for finding in findings] == ["data.answer-absent", "data.answer-moved"]
    assert findings[0].where == "rows.jsonl:3:answers"
    assert findings[1].what.startswith("2 answer(s)")


def test_no_answer_is_given_where_its_score_is_higher_by_the_threshold() -> None:
    task = Task(TaskOptions.model_validate({"unanswerable": True, "null_threshold": 1.0}))
    windows = [{"row": 0, "null": 4.0, "spans": [(3.5, 0, 3)]}, {"row": 0, "null": 9.0, "spans": [(2.0, 0, 1)]}]
    assert task._best(windows, "Ada wrote")["answer"] == "Ada"  # 4 does not exceed 3.5 by 1
    windows[0]["null"] = 4.6
    assert task._best(windows, "Ada wrote")["answer"] == ""
    known = Task(TaskOptions.model_validate({"unanswerable": False}))
    assert known._best(windows, "Ada wrote")["answer"] == "Ada"
