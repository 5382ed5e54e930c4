"""Rows that ask something and say what a right answer comes to: a number, or a text to compare with.

| row | becomes |
|---|---|
| prompt (question, messages, ...), final (expected, ground_truth, ...); system?, images? | messages, targets, images |

GSM8K's worked solution (`answer`) beside its `final` is not read: what is learned are the model's own answers.
"""

from __future__ import annotations

import math

from luthier.data.files.reading import kind
from luthier.data.formats.fields import Fields
from luthier.data.formats.preferences import LEAVE_OUT, PROMPT, check_prompt, read_prompt
from luthier.data.formats.shown import PICTURES, gather_pictures
from luthier.data.text.turns import before_answer
from luthier.types import Example

CHECKABLE = {"prompt": PROMPT, "final": ("final", "expected", "ground_truth", "final_answer")}
BESIDE_CHECKABLE = {"system": ("system",), "tools": ("tools",), "images": PICTURES}


def checkable(fields: Fields) -> Example:
    turns = before_answer(read_prompt(fields))
    if not turns and not fields.findings:
        fields.report("data.no-prompt", fields.column("prompt"), "nothing says what was asked", LEAVE_OUT)
    check_prompt(fields, turns, fields.column("prompt"))
    made = Example(fields.source, messages=turns, tools=fields.tools(), targets=[_final(fields)])
    return gather_pictures(fields, made)


def _final(fields: Fields) -> str:
    """As text; a whole number without a fraction, however the file has it."""
    value, at = fields.get("final"), fields.column("final")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        fields.report("data.type", at, f"must be a text or a number, this is {kind(value)}", LEAVE_OUT)
        return ""
    text = str(value).strip()
    if not text or (isinstance(value, float) and not math.isfinite(value)):
        fields.report("data.empty-target", at, "is empty: no answer could be checked", LEAVE_OUT)
    return text
