"""Questions about pictures: rows with one answer or ten, and VQA's files as they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.data.formats.choose import ReadResult, read_examples
from luthier.data.formats.rows import to_example
from luthier.types import Example, Source

SOURCE = Source("rows.jsonl", 1)
QUESTIONS: dict[str, Any] = {
    "info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": "val2014", "license": {},
    "questions": [
        {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
        {"image_id": 393225, "question": "Is it red?", "question_id": 393225000},
    ],
}  # fmt: skip
ANNOTATIONS: dict[str, Any] = {
    "info": {}, "license": {}, "data_subtype": "val2014",
    "annotations": [
        {"question_type": "is it", "multiple_choice_answer": "no", "image_id": 393225, "answer_type": "yes/no",
         "question_id": 393225000, "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": i}
                                               for i, a in enumerate(["yes", "no", "no"])]},
        {"question_type": "where", "multiple_choice_answer": "down", "image_id": 262148, "answer_type": "other",
         "question_id": 262148000, "answers": [{"answer": "down", "answer_confidence": "yes", "answer_id": 1}]},
    ],
}  # fmt: skip
NAMES = ("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json")


def read(folder: Path, questions: Any, annotations: Any, name: str = NAMES[0]) -> ReadResult:
    for file, value in zip(NAMES, (questions, annotations), strict=True):
        if value is not None:
            (folder / file).write_text(json.dumps(value), encoding="utf-8")
    return read_examples(name, base=folder, prefer=("image-question-answer",), images=[folder / "val2014"])


def test_vqa_as_published(tmp_path: Path) -> None:
    """Each question with the answers beside it, what most people said first; the picture has COCO's name."""
    (tmp_path / "val2014").mkdir()
    found = read(tmp_path, QUESTIONS, ANNOTATIONS)
    assert (found.findings, found.format, found.rows_read) == ([], "image-question-answer", 2)
    assert [(one.text, one.targets, one.source.line) for one in found.examples] == [
        ("Where is he looking?", ["down"], 1), ("Is it red?", ["no", "yes", "no"], 2)
    ]  # fmt: skip
    assert found.examples[0].images == [tmp_path / "val2014/COCO_val2014_000000262148.jpg"]


def test_questions_without_their_answers(tmp_path: Path) -> None:
    (finding,) = read(tmp_path, QUESTIONS, None).findings
    assert finding.code == "data.missing"
    assert NAMES[1] in finding.what
    (finding,) = read(tmp_path, QUESTIONS, ANNOTATIONS, NAMES[1]).findings
    assert (finding.code, finding.mend) == ("data.unknown-format", "name the file of the questions")
    fewer = ANNOTATIONS | {"annotations": ANNOTATIONS["annotations"][:1]}
    found = read(tmp_path, QUESTIONS, fewer)
    assert [(one.code, one.where) for one in found.findings] == [("data.malformed", f"{NAMES[0]}:1")]
    assert (len(found.examples), found.rows_read) == (1, 2)


@pytest.mark.parametrize(
    ("broken", "code"), [(b'{"annotations": [', "data.malformed"), (b"\xff\xfe\xff", "data.encoding")]
)
def test_answers_that_cannot_be_read(tmp_path: Path, broken: bytes, code: str) -> None:
    """One finding at their file, and no row without an answer."""
    (tmp_path / NAMES[1]).write_bytes(broken)
    found = read(tmp_path, QUESTIONS, None)
    assert [(one.code, one.where.split(":")[0]) for one in found.findings] == [(code, NAMES[1])]
    assert found.examples == []


@pytest.mark.parametrize(
    ("given", "targets"),
    [
        ({"answer": "red"}, ["red"]), ({"answers": ["a", "b", "b"]}, ["b", "a", "b"]), ({"answer": 3}, ["3"]),
        ({"label": True}, ["true"]), ({"answers": [{"answer": "x"}]}, ["x"]),
    ],
)  # fmt: skip
def test_a_rows_answers(given: dict[str, Any], targets: list[str]) -> None:
    found = to_example(SOURCE, {"image": "a.png", "question": "what?"} | given, "image-question-answer")
    assert isinstance(found, Example)
    assert (found.text, found.targets) == ("what?", targets)


@pytest.mark.parametrize(("answer", "code"), [("", "data.empty-target"), ([], "data.empty-target"), ({}, "data.type")])
def test_what_is_no_answer_is_told(answer: Any, code: str) -> None:
    row = {"image": "a.png", "question": "what?", "answer": answer}
    (finding,) = to_example(SOURCE, row, "image-question-answer")  # type: ignore[misc]
    assert (finding.code, finding.where) == (code, "rows.jsonl:1:answer")
