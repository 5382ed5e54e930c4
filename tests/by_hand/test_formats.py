"""Rows written by hand in each format, and the example or the findings that they must give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.data.formats.choose import FORMATS, read_examples, recognise, to_example
from luthier.types import Example, Finding, Source, Waveform

SOURCE = Source("a.jsonl", 7)
ASK, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}


def number(rows: list[dict[str, Any]]) -> list[tuple[Source, dict[str, Any]]]:
    return [(Source("a.jsonl", line), row) for line, row in enumerate(rows, start=1)]


def convert(row: dict[str, Any], columns: dict[str, str] | None = None) -> Example | list[Finding]:
    """What a row of the format that it is recognised as becomes."""
    fmt = recognise(number([row]), columns)
    assert isinstance(fmt, str), fmt
    return to_example(SOURCE, row, fmt, columns)


def problems(row: dict[str, Any]) -> list[tuple[str, str]]:
    """(code, field) of each finding of a row."""
    findings = convert(row)
    assert isinstance(findings, list), findings
    assert all(finding.where.startswith("a.jsonl:7:") for finding in findings)
    return [(finding.code, finding.where.removeprefix("a.jsonl:7:")) for finding in findings]


@pytest.mark.parametrize(
    ("fmt", "row", "turns"),
    [
        ("messages", {"messages": [SYSTEM, ASK, ANSWER]}, [SYSTEM, ASK, ANSWER]),
        ("messages", {"messages": [ASK, ANSWER], "label": True}, [ASK, ANSWER]),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
            [SYSTEM, ASK, ANSWER],
        ),
        (
            "sharegpt",
            {"conversation": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]},
            [ASK, ANSWER],
        ),
        ("alpaca", {"instruction": "q", "input": "", "output": "a"}, [ASK, ANSWER]),
        ("alpaca", {"instruction": "q", "response": "a", "system": "s"}, [SYSTEM, ASK, ANSWER]),
        ("alpaca", {"instruction": "q", "input": "i", "output": "a"}, [{"role": "user", "content": "q\n\ni"}, ANSWER]),
        (
            "alpaca",  # Dolly
            {"instruction": "q", "context": "c", "response": "a", "category": "open_qa"},
            [{"role": "user", "content": "q\n\nc"}, ANSWER],
        ),
        ("alpaca", {"instruction": "q", "context": "", "response": "a", "category": "open_qa"}, [ASK, ANSWER]),
        (
            "self-instruct",
            {"id": "seed_task_0", "instruction": "q", "instances": [{"input": "i", "output": "a"}]},
            [{"role": "user", "content": "q\n\ni"}, ANSWER],
        ),
        ("self-instruct", {"instruction": "q", "instances": [{"input": "", "output": "a"}]}, [ASK, ANSWER]),
        ("prompt-completion", {"prompt": "q", "completion": "a"}, [ASK, ANSWER]),
        ("prompt-completion", {"prompt": [SYSTEM, ASK], "completion": [ANSWER]}, [SYSTEM, ASK, ANSWER]),
        ("prompt-completion", {"prompt": [SYSTEM, ASK], "response": "a"}, [SYSTEM, ASK, ANSWER]),
        ("question-answer", {"question": "q", "answers": ["a", "b"]}, [ASK, ANSWER]),
        ("question-answer", {"question": "q", "answers": {"text": ["a"], "answer_start": [3]}}, [ASK, ANSWER]),
        (
            "question-answer",
            {"context": "c", "question": "q", "answer": "a"},
            [{"role": "user", "content": "c\n\nq"}, ANSWER],
        ),
    ],
)
def test_conversations(fmt: str, row: dict[str, Any], turns: list[dict[str, Any]]) -> None:
    assert recognise(number([row]), prefer=(fmt,)) == fmt
    assert to_example(SOURCE, row, fmt) == Example(SOURCE, messages=turns)


@pytest.mark.parametrize("column", ["summary", "summaries", "highlights", "target"])
@pytest.mark.parametrize(("given", "targets"), [("s", ["s"]), (["s", "t"], ["s", "t"])])
@pytest.mark.parametrize("document", ["document", "article", "text"])
def test_document_and_summary(document: str, column: str, given: Any, targets: list[str]) -> None:
    row = {document: "d", column: given, "title": "x"}
    assert recognise(number([row])) == "document-summary"
    assert convert(row) == Example(SOURCE, text="d", targets=targets)


@pytest.mark.parametrize(
    ("summary", "code"),
    [("", "data.empty-target"), ([], "data.empty-target"), (["s", " "], "data.empty-target"), (3, "data.type"),
     (["s", 3], "data.type"), (None, "data.type")],
)  # fmt: skip
def test_a_summary_that_cannot_be_learned(summary: Any, code: str) -> None:
    assert problems({"document": "d", "summary": summary}) == [(code, "summary")]


@pytest.mark.parametrize("label", ["pos", 1, True, 0.5, ["a", "b"], []])
@pytest.mark.parametrize(("text", "column"), [("text", "label"), ("sentence", "intent"), ("review", "labels")])
def test_text_and_label(text: str, column: str, label: Any) -> None:
    row = {text: "fine", column: label, "id": 3}
    assert recognise(number([row])) == "text-label"
    example = convert(row)
    assert isinstance(example, Example)
    assert (example.text, example.label, type(example.label)) == ("fine", label, type(label))


def test_plain_text() -> None:
    assert convert({"text": "fine", "id": 1}) == Example(SOURCE, text="fine")


@pytest.mark.parametrize("audio", ["audio", "sound", "audio_path", "audio_filepath", "wav"])
def test_sounds(audio: str) -> None:
    """A path, the bytes of a file, or samples with their rate; a label before a text, a text as transcript."""
    path, held = Path("a.wav"), b"RIFF"
    assert convert({audio: "a.wav", "label": 3}) == Example(SOURCE, sounds=[path], label=3)
    assert convert({audio: {"bytes": held, "path": "a.wav"}, "text": "hi"}) == Example(
        SOURCE, sounds=[held], targets=["hi"]
    )
    samples = {"array": [0.5, -0.5], "sampling_rate": 8000}
    wave = Waveform(b"\0\0\0\x3f\0\0\0\xbf", 8000)  # IEEE 754, little-endian
    assert convert({audio: samples, "sentence": ["hi", "hey"]}) == Example(SOURCE, sounds=[wave], targets=["hi", "hey"])
    both = {"array": [[0.5, 0.5, 0.5], [-0.5, -0.5, -0.5]], "sampling_rate": 8000}
    found = convert({audio: both, "transcript": "hi"})
    assert isinstance(found, Example)
    assert found.sounds == [Waveform(wave.samples * 3, 8000, channels=2)]
    for rate in (None, float("nan"), float("inf"), "8000"):  # decoding says that nobody told it
        found = convert({audio: samples | {"sampling_rate": rate}, "label": 3})
        assert found == Example(SOURCE, sounds=[Waveform(wave.samples, 0)], label=3)
    for none in ([], [[]], [[], []]):
        found = convert({audio: {"array": none, "sampling_rate": 8000}, "label": 3})
        assert found == Example(SOURCE, sounds=[Waveform(b"", 8000)], label=3)
    assert problems({audio: 3, "label": "x"}) == [("data.type", audio)]
    assert problems({audio: "a.wav", "transcript": " "}) == [("data.empty-target", "transcript")]
    assert problems({audio: ["a"], "label": "x"}) == [("data.type", audio)]


def test_every_format_is_tested() -> None:
    talks = ["messages", "sharegpt", "alpaca", "self-instruct", "prompt-completion"]
    asked = ["code-problem", "squad", "open-question", "question-answer"]  # the first in test_written_code.py
    elsewhere = ["tokens-tags", "text-spans", "translation", "instruction-steps", "episode", "source-target"]
    pairs = ["scored-pair", "query-positive"]
    # In test_pictures.py, test_questions.py, test_matching.py.
    pictures = ["image-text-label", "image-question-answer", "image-label", "image-caption"]
    sounds = ["audio-label", "audio-text"]
    judged = ["preference", "judged-pair", "rated-answers", "stepwise"]  # in test_preference_rows.py and test_steps.py
    here = ["text-label", "document-summary", "thumbs", "checkable", "plain-text"]  # checkable: test_rewards.py
    assert list(FORMATS) == [*pictures, *sounds, *talks, *asked, *elsewhere, *judged, *pairs, *here]


def test_tool_turns_and_tools() -> None:
    """Null is allowed in a turn with tool_calls alone; null keys, which tables add to every turn, go; tools may be
    written as JSON."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    turns = [ASK, call, {"role": "tool", "content": "42", "name": "f"}, ANSWER]
    tools = [{"type": "function", "function": {"name": "f"}}]
    filled = [{"tool_calls": None, "name": None, **turn} for turn in turns]
    expected = Example(SOURCE, messages=turns, tools=tools)
    assert convert({"messages": filled, "tools": tools}) == expected
    assert convert({"messages": filled, "tools": json.dumps(tools)}) == expected
    assert problems({"messages": [ASK, ANSWER], "tools": "{"}) == [("data.type", "tools")]
    assert problems({"messages": [ASK, ANSWER], "tools": {"name": "f"}}) == [("data.type", "tools")]


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "q"}, {"type": "text", "text": "?"}]
    example = convert({"messages": [{"role": "user", "content": parts}, ANSWER]})
    assert isinstance(example, Example)
    assert example.messages == [{"role": "user", "content": "q?"}, ANSWER]
    parts.append({"type": "image"})
    assert problems({"messages": [{"role": "user", "content": parts}, ANSWER]}) == [
        ("data.type", "messages[0].content")
    ]


@pytest.mark.parametrize(
    ("roles", "ok"),
    [
        ("user assistant", True),
        ("system user assistant user assistant", True),
        ("user assistant tool tool assistant", True),
        ("assistant", False),
        ("system assistant user assistant", False),
        ("system", False),
        ("system system user assistant", False),
        ("user user assistant", False),
        ("user assistant assistant", False),
        ("user tool assistant", False),
        ("user", False),
        ("user assistant user", False),
        ("user assistant tool", False),
    ],
)
def test_the_order_of_roles(roles: str, ok: bool) -> None:
    row = {"messages": [{"role": role, "content": "{}"} for role in roles.split()]}  # a brace may be a call
    if ok:
        assert isinstance(convert(row), Example)
    else:
        assert problems(row) == [("data.role-order", "messages")]


@pytest.mark.parametrize(
    ("name", "guess"),
    [("gpt", "'assistant'"), ("asistant", "'assistant'"), ("Human", "'user'"), ("developer", "'system'")],
)
def test_an_unknown_role_gets_a_guess(name: str, guess: str) -> None:
    findings = convert({"messages": [ASK, {"role": name, "content": "a"}]})
    assert isinstance(findings, list)
    assert [(finding.code, finding.where) for finding in findings] == [
        ("data.role-unknown", "a.jsonl:7:messages[1].role")
    ]
    assert findings[0].mend == f"did you mean {guess}?"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": "q"}, [("data.type", "messages")]),
        ({"messages": ["q", ANSWER]}, [("data.type", "messages[0]")]),
        ({"messages": [{"role": 1, "content": "q"}, ANSWER]}, [("data.type", "messages[0].role")]),
        ({"messages": [{"role": "user", "content": 3}, ANSWER]}, [("data.type", "messages[0].content")]),
        ({"messages": [{"role": "user"}, ANSWER]}, [("data.null-content", "messages[0].content")]),
        ({"messages": [ASK, {"role": "assistant", "content": None}]}, [("data.null-content", "messages[1].content")]),
        ({"messages": [ASK, {"role": "assistant", "content": " "}]}, [("data.empty-target", "messages[1].content")]),
        ({"messages": []}, [("data.empty-target", "messages")]),
        (
            {"instruction": 1, "input": 2, "output": " "},
            [("data.type", "instruction"), ("data.type", "input"), ("data.empty-target", "output")],
        ),
        ({"prompt": None, "completion": ""}, [("data.type", "prompt"), ("data.empty-target", "completion")]),
        ({"instruction": "q", "instances": []}, [("data.type", "instances")]),
        ({"instruction": "q", "instances": [{"output": "a"}, {"output": "b"}]}, [("data.type", "instances")]),
        ({"instruction": "q", "instances": [{"output": ""}]}, [("data.empty-target", "instances[0].output")]),
        ({"question": "q", "answers": []}, [("data.empty-target", "answers")]),
        ({"question": "q", "answer": 4}, [("data.type", "answer")]),
        ({"text": "", "label": "a"}, [("data.empty-target", "text")]),
        ({"text": ["x"], "label": "a"}, [("data.type", "text")]),
        ({"text": "x", "label": None}, [("data.empty-target", "label")]),
        ({"text": "x", "label": ""}, [("data.empty-target", "label")]),
        ({"text": "x", "score": float("nan")}, [("data.type", "score")]),
        ({"text": "x", "score": float("inf")}, [("data.type", "score")]),
        ({"text": "x", "labels": [1, 2]}, [("data.type", "labels")]),
        ({"text": "x", "label": {"a": 1}}, [("data.type", "label")]),
        ({"text": " "}, [("data.empty-target", "text")]),
    ],
)
def test_everything_wrong_with_a_row_is_named(row: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert problems(row) == expected


WEIGHTS = {0.5: True, "2": True, 0: False, -1: False, "x": False, None: False, float("inf"): False}


@pytest.mark.parametrize(("weight", "ok"), [*WEIGHTS.items(), (True, False)])
def test_weight(weight: Any, ok: bool) -> None:
    row = {"text": "x", "label": "a", "weight": weight}
    if ok:
        example = convert(row)
        assert isinstance(example, Example)
        assert example.weight == float(weight)
    else:
        assert problems(row) == [("data.weight", "weight")]


def test_columns_choose_the_format_by_their_names() -> None:
    row = {"body": "x", "stars": 4, "answer": "y", "w": 3}
    assert convert(row, {"text": "body", "label": "stars", "weight": "w"}) == Example(
        SOURCE, text="x", label=4, weight=3.0
    )
    assert convert(row, {"text": "body"}) == Example(SOURCE, text="x")
    expected = Example(SOURCE, messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}])
    assert convert(row, {"prompt": "body", "completion": "answer"}) == expected
    assert convert(row, {"question": "body"}) == expected


def test_columns_override_what_a_file_already_has() -> None:
    """The file's own "label" is not the label that was asked for."""
    example = convert({"text": "x", "label": 1, "topic": "b"}, {"label": "topic"})
    assert isinstance(example, Example)
    assert example.label == "b"


@pytest.mark.parametrize(
    ("columns", "where", "mend"),
    [
        ({"text": "Body"}, "columns.text", "did you mean body?"),
        ({"txet": "body"}, "columns.txet", "did you mean text?"),
        ({"text": "body", "completion": "body"}, "columns", "the formats are"),
    ],
)
def test_columns_that_name_nothing(columns: dict[str, str], where: str, mend: str) -> None:
    findings = recognise(number([{"body": "x"}]), columns)
    assert isinstance(findings, list)
    assert [(finding.code, finding.where) for finding in findings] == [("data.columns", where)]
    assert findings[0].mend.startswith(mend)


def test_mixed_formats_are_counted() -> None:
    rows = [{"prompt": "q", "completion": "a"}] * 3 + [{"instruction": "q", "output": "a"}] * 2
    findings = recognise(number(rows))
    assert isinstance(findings, list)
    assert [finding.code for finding in findings] == ["data.mixed-formats"]
    assert "3 rows are prompt-completion (first: a.jsonl:1); 2 rows are alpaca (first: a.jsonl:4)" in findings[0].what
    filled = [{"prompt": None, "completion": None, "instruction": None, "output": None, **row} for row in rows]
    assert recognise(number(filled)) == findings, "a table filled with null hides the mixture"


def test_a_few_rows_without_a_field_are_findings_of_their_own() -> None:
    rows = [{"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a"}, {"prompt": "q"}]
    assert recognise(number(rows)) == "prompt-completion"
    findings = to_example(SOURCE, rows[2], "prompt-completion")
    assert isinstance(findings, list)
    assert [(finding.code, finding.where) for finding in findings] == [("data.missing-field", "a.jsonl:7:completion")]


def test_an_unknown_format_says_what_is_near() -> None:
    """An instruction whose output is elsewhere; and capitals in a table."""
    for row, near in (
        ({"id": "1", "instruction": "q", "said": []}, "alpaca is nearest, and lacks output or response"),
        ({"Text": "x", "Label": "a"}, "text-label is nearest, with columns: {text: Text, label: Label}"),
    ):
        findings = recognise(number([row, row]))
        assert isinstance(findings, list)
        assert [(finding.code, finding.where) for finding in findings] == [("data.unknown-format", "a.jsonl:1")]
        assert f"2 of 2 rows fit no known format: the columns are {', '.join(row)}" in findings[0].what
        assert near in findings[0].mend
        assert all(name in findings[0].mend for name in FORMATS)


def write(path: Path, *rows: Any) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def test_several_files_with_weights(tmp_path: Path) -> None:
    """The weight of a file multiplies that of its rows: 2 · 1 and 2 · 0.5. One broken line, one empty answer:
    5 rows read, 3 used."""
    write(
        tmp_path / "a.jsonl", {"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a", "weight": 0.5}, "{"
    )
    write(tmp_path / "b.jsonl", {"question": "q", "answer": "a"}, {"question": "q", "answer": ""})
    result = read_examples([{"path": "a.jsonl", "weight": 2}, "b.jsonl"], base=tmp_path)
    assert [(str(e.source), e.weight) for e in result.examples] == [
        ("a.jsonl:1", 2.0),
        ("a.jsonl:2", 1.0),
        ("b.jsonl:1", 1.0),
    ]
    assert [(finding.code, finding.where) for finding in result.findings] == [
        ("data.malformed", "a.jsonl:3"),
        ("data.empty-target", "b.jsonl:2:answer"),
    ]
    assert (result.rows_read, result.format) == (5, "prompt-completion + question-answer")


def test_all_files_findings_come_together(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"text": "x", "label": 1})
    write(tmp_path / "b.jsonl", {"prompt": "q", "completion": "a"})
    write(tmp_path / "c.jsonl", {"zzz": 1})
    paths: list[Any] = ["a.jsonl", "b.jsonl", "c.jsonl", "gone.jsonl", {"path": "a.jsonl", "weight": 0}]
    found = [finding.code for finding in read_examples(paths, base=tmp_path).findings]
    assert found == ["data.unknown-format", "data.missing", "data.weight", "data.mixed-formats"]


def test_format_given(tmp_path: Path) -> None:
    """Labelled rows as plain text; a name that is no format; columns that are not there are still named."""
    write(tmp_path / "a.jsonl", {"text": "x", "label": 1})
    assert read_examples("a.jsonl", base=tmp_path, fmt="plain-text").examples[0].label is None
    assert [f.mend for f in read_examples("a.jsonl", base=tmp_path, fmt="plaintext").findings] == [
        "did you mean plain-text?"
    ]
    result = read_examples("a.jsonl", base=tmp_path, fmt="plain-text", columns={"text": "txt"})
    assert [finding.code for finding in result.findings] == ["data.columns"]


DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.skipif(not DATA.exists(), reason="the real data in ../shared/data is not here")
@pytest.mark.parametrize(
    ("path", "fmt", "count"),
    [
        ("rt_polarity/train.jsonl.gz", "text-label", 7662),
        ("clinc150/val.jsonl.gz", "text-label", 3100),
        ("gpteacher_codegen", "alpaca", 4535),
        ("t0_tasks", "prompt-completion", 8400),
        ("gsm8k", "question-answer", 7473),
        ("nq_open", "open-question", 3610),
        ("tinyshakespeare", "plain-text", 1),
        ("seed_instructions", "self-instruct", 175),
    ],
)
def test_real_files(path: str, fmt: str | None, count: int) -> None:
    """Counts are those of the data's own description."""
    result = read_examples(path, base=DATA)
    assert (result.format, len(result.examples)) == (fmt, count)
    assert [finding.code for finding in result.findings] == ([] if fmt else ["data.unknown-format"])
