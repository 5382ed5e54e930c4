"""Questions about pictures, in the files of VQA as they are published.

    v2_OpenEnded_mscoco_val2014_questions.json     questions: question_id, image_id, question; data_subtype
    v2_mscoco_val2014_annotations.json             annotations: question_id, answers, multiple_choice_answer

The recipe names the file of questions; that of the answers is found beside it by its name. A picture is called as in
COCO: ``COCO_val2014_000000262148.jpg``.

Reference: Goyal et al. 2017 (arXiv 1612.00837).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from luthier.data.files.captions import Bad, Numbered, objects
from luthier.data.files.reading import Reading, Row
from luthier.types import Finding

KEPT = ("question_id", "answers", "multiple_choice_answer", "answer_type")
ANSWERS = ("answers", "answer", "multiple_choice_answer", "label")


def published(value: dict[str, Any]) -> tuple[Numbered, Bad] | None:
    """The rows of a file of questions or of answers, numbered; None where it is neither."""
    asked, told = value.get("questions"), value.get("annotations")
    if objects(asked) and all("question_id" in one for one in asked):
        part = str(value.get("data_subtype", ""))
        return [(at, _question(one, part)) for at, one in enumerate(asked, start=1)], []
    if objects(told) and all("question_id" in one and "answers" in one for one in told):
        rows = [{name: one[name] for name in KEPT if name in one} for one in told]
        return list(enumerate(rows, start=1)), []
    return None


def _question(one: dict[str, Any], part: str) -> dict[str, Any]:
    row: dict[str, Any] = {name: one[name] for name in ("question_id", "question", "image") if name in one}
    number = one.get("image_id")
    if "image" not in row and isinstance(number, int):
        row["image"] = f"COCO_{part}_{number:012d}.jpg"
    elif "image" not in row and isinstance(number, str):
        row["image"] = number
    return row


def with_answers(target: Path, reading: Reading, read: Callable[[IO[bytes], Reading], None]) -> None:
    """Give the rows of a published file of questions their answers, from the file beside it, which ``read`` reads."""
    rows = [row for _, row in reading.rows]
    if not rows or not all("question_id" in row for row in rows):
        return
    if "question" not in rows[0] and "image" not in rows[0]:
        what = "these are the answers alone; the questions, and their pictures, are in another file"
        reading.findings.append(Finding("data.unknown-format", reading.file, what, "name the file of the questions"))
        reading.rows.clear()
        return
    if any(name in row for row in rows for name in ANSWERS):
        return
    names = {target.name.replace("OpenEnded_", "").replace("questions", "annotations"),
             target.name.replace("questions", "annotations")} - {target.name}  # fmt: skip
    beside = next((target.with_name(name) for name in sorted(names) if target.with_name(name).is_file()), None)
    if beside is None:
        what = f"these are questions without answers, and none of {', '.join(sorted(names)) or 'their files'} is there"
        reading.findings.append(Finding("data.missing", reading.file, what, "put the file of answers beside it"))
        return
    told = replace(reading, file=str(Path(reading.file).with_name(beside.name)), rows=[], findings=[], line=0)
    with beside.open("rb") as stream:
        read(stream, told)
    reading.findings += told.findings
    reading.rows[:] = [] if told.findings else _joined(reading, told)


def _joined(reading: Reading, told: Reading) -> list[Row]:
    answers = {row["question_id"]: row for _, row in told.rows if "question_id" in row}
    joined = []
    for source, row in reading.rows:
        if row["question_id"] in answers:
            joined.append((source, row | answers[row["question_id"]]))
        else:
            what = f"question {row['question_id']} has no answer in {Path(told.file).name}"
            reading.bad(source.line, what, "leave the question out")
    return joined
