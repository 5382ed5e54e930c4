"""Splitting by content: what must stay together, what must not move, and what stands twice."""

from __future__ import annotations

import random

import pytest

from luthier.data.few import few
from luthier.data.split import content_key, duplicates, normalised, split
from luthier.types import Example, Refused, Source


def text(line: int, said: str, label: str | int | list[str] | None = None) -> Example:
    return Example(Source("a.jsonl", line), text=said, label=label)


def talk(*turns: str, tool_calls: object = None) -> Example:
    """Turns of the user and the assistant in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": said} for index, said in enumerate(turns)]
    if tool_calls:
        messages[-1] |= {"content": None, "tool_calls": tool_calls}
    return Example(Source("a.jsonl", 1), messages=messages)


MANY = [text(line, f"sentence number {line}") for line in range(1, 2001)]


def lines(examples: list[Example]) -> set[int]:
    return {example.source.line for example in examples}


def test_the_sides_make_a_whole_and_keep_the_order() -> None:
    """2,000 rows at a share of 0.1: 200 on average with a standard deviation of √(2000 · 0.1 · 0.9) = 13.4, so 147 to
    253 lies within four of them (and the split is a fixed function of these rows)."""
    train, held_out = split(MANY, 0.1, seed=0)
    assert lines(train) | lines(held_out) == set(range(1, 2001))
    assert not lines(train) & lines(held_out)
    assert 147 <= len(held_out) <= 253
    for side in (train, held_out):
        assert side == sorted(side, key=lambda example: example.source.line)


def test_no_row_moves_when_rows_come_or_are_shuffled() -> None:
    _, held_out = split(MANY, 0.2, seed=3)
    shuffled = MANY[:]
    random.Random(0).shuffle(shuffled)
    assert lines(split(shuffled, 0.2, seed=3)[1]) == lines(held_out)
    _, of_half = split(MANY[:1000], 0.2, seed=3)
    assert lines(of_half) == {line for line in lines(held_out) if line <= 1000}


def test_a_larger_share_only_adds_and_a_seed_draws_anew() -> None:
    small, large = (lines(split(MANY, share, seed=0)[1]) for share in (0.1, 0.3))
    assert small < large
    assert lines(split(MANY, 0.1, seed=1)[1]) != small


def test_copies_never_straddle() -> None:
    """Every sentence stands twice, the second time in capitals, with other spaces, another end and another label."""
    copies = [text(e.source.line + 2000, f"  {(e.text or '').upper()}  .", label=1) for e in MANY]
    train, held_out = split(MANY + copies, 0.5, seed=0)
    assert {line % 2000 for line in lines(train)} & {line % 2000 for line in lines(held_out)} == set()
    assert [finding for finding in duplicates(train, held_out) if finding.code == "data.leak"] == []


def test_shares_that_leave_a_side_empty() -> None:
    assert split(MANY, 0.0, seed=0) == (MANY, [])
    for share, code in ((1.0, "data.split-share"), (-0.1, "data.split-share"), (1e-9, "data.split-empty")):
        with pytest.raises(Refused) as refused:
            split(MANY, share, seed=0)
        assert [finding.code for finding in refused.value.findings] == [code]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Good  film.", "good film", True),
        ("«Good\tfilm!»", "GOOD\nFILM ...", True),
        ("straße", "STRASSE", True),
        ("e\u0301", "\u00e9", True),
        ("good film", "goodfilm", False),
        ("good, film", "good film", False),
        ("great :)", "great :(", False),
        ("-5", "5", False),
        ("!!!", "???", False),
    ],
)
def test_normalised(one: str, other: str, same: bool) -> None:
    assert (normalised(one) == normalised(other)) is same


def test_content_is_roles_turns_and_calls_but_not_the_label() -> None:
    """Where a turn ends matters; half a surrogate pair can be hashed."""
    assert content_key(text(1, "x", "a")) == content_key(text(2, "X.", "b"))
    assert content_key(talk("Hi", "Hello!")) == content_key(talk("hi", "hello"))
    keys = [
        content_key(example)
        for example in (
            text(1, "hi"),
            talk("hi"),
            Example(Source("a.jsonl", 1), messages=[{"role": "system", "content": "hi"}]),
            talk("hi", "there"),
            talk("hi there"),
            talk("hi", "x", tool_calls=[{"function": {"name": "f"}}]),
            talk("hi", "x", tool_calls=[{"function": {"name": "g"}}]),
            text(1, "\ud83d"),
        )
    ]
    assert len(set(keys)) == len(keys)


def test_a_leak_names_both_places() -> None:
    train = [text(1, "one"), text(2, "two"), text(3, "three")]
    findings = duplicates(train, [text(8, "TWO!"), text(9, "four")])
    assert [(finding.code, finding.severity, finding.where) for finding in findings] == [
        ("data.leak", "error", "a.jsonl:8")
    ]
    assert "a.jsonl:2" in findings[0].what


def test_of_many_leaks_twenty_are_named_and_all_are_counted() -> None:
    findings = duplicates(MANY, MANY[:25])
    assert [finding.where for finding in findings] == [f"a.jsonl:{line}" for line in range(1, 21)] + ["eval"]
    assert "25 of 25 eval rows" in findings[-1].what
    assert len(duplicates(MANY, MANY[:20])) == 20


def test_repeats_and_conflicts_inside_train() -> None:
    """ "one" stands 3 times with one label: 2 repeats. "two" has two labels: a conflict, no repeat. The labels of
    "three" are the same set."""
    train = [
        text(1, "one", "a"),
        text(2, "two", "a"),
        text(3, "One.", "a"),
        text(4, "two", "b"),
        text(5, "one", "a"),
        text(6, "three", ["a", "b"]),
        text(7, "three", ["b", "a"]),
    ]
    findings = duplicates(train, [text(9, "four")])
    assert [(finding.code, finding.severity, finding.where) for finding in findings] == [
        ("data.conflict", "warning", "a.jsonl:2"),
        ("data.duplicates", "warning", "a.jsonl:3"),
    ]
    assert "'a' here and 'b' at a.jsonl:4" in findings[0].what
    assert findings[1].what.startswith("3 of 7 rows")
    assert "a.jsonl:1 = a.jsonl:3 = a.jsonl:5" in findings[1].what


def test_a_document_with_two_summaries_is_no_repeat() -> None:
    """Lines 1 and 2 differ in what is to be written, 3 and 4 in nothing."""
    pairs = [("one", ["a"]), ("one", ["b"]), ("two", ["a", "b"]), ("two", ["a", "b"])]
    train = [Example(Source("a.jsonl", line), text=said, targets=to) for line, (said, to) in enumerate(pairs, start=1)]
    (finding,) = duplicates(train, [])
    assert (finding.code, finding.where) == ("data.duplicates", "a.jsonl:4")
    assert [found.code for found in duplicates(train[:1], train[1:2])] == ["data.leak"]


def test_nothing_twice_is_no_finding() -> None:
    assert duplicates(MANY[:1000], MANY[1000:]) == []


def test_a_few_rows_of_each_class_are_drawn_by_content() -> None:
    """Two of three a, both b, the one c there is; another seed draws others; a row more of b moves no a."""
    rows = [Example(Source("rows", i), text=f"text {i}", label="aaabbc"[i]) for i in range(6)]
    kept, (short,) = few(rows, 2, seed=0)
    assert [example.label for example in kept] == ["a", "a", "b", "b", "c"]
    assert [example.source.line for example in kept] == sorted(example.source.line for example in kept)
    assert (short.code, short.severity) == ("data.few", "warning")
    assert "1 of 3 classes" in short.what
    assert "c (1)" in short.what
    drawn = {tuple(e.source.line for e in few(rows, 2, seed=seed)[0] if e.label == "a") for seed in range(20)}
    assert drawn == {(0, 1), (0, 2), (1, 2)}
    more = [*rows, Example(Source("rows", 9), text="text 9", label="b")]
    assert [e for e in few(more, 2, seed=0)[0] if e.label == "a"] == [e for e in kept if e.label == "a"]
    for label in (0.5, ["a", "b"], None):
        same, (refused,) = few([*rows, Example(Source("rows", 9), text="x", label=label)], 2, seed=0)
        assert (len(same), refused.code, refused.where) == (7, "recipe.combination", "rows:9")
