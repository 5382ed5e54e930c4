"""A teacher reads what the student reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.objectives.distill import Taught
from luthier.types import Finding

if TYPE_CHECKING:
    from luthier.runs.prepared import Prepared

LOOKED_AT = 64  # rows whose texts are tokenized by both


def same_tokens(prepared: Prepared) -> list[Finding]:
    """The same text makes the same ids at both, and a template that writes tokens makes the same row."""
    objective, backbone = prepared.objective, prepared.backbone
    if not isinstance(objective, Taught) or objective.teacher is None or backbone.has_own_head:
        return []
    theirs = objective.teacher.backbone.tokenizer
    if theirs is backbone.tokenizer:
        return []
    examples = prepared.train.examples[:LOOKED_AT]
    for example in examples:
        for text in prepared.task.shown(example):
            found, expected = (t(text, add_special_tokens=False)["input_ids"] for t in (theirs, backbone.tokenizer))
            if found != expected:
                what = (
                    f"the teacher's tokenizer makes {len(found)} tokens of a text here, the student's {len(expected)}"
                )
                if len(found) == len(expected):
                    what = "the teacher's tokenizer makes other tokens of a text here than the student's"
                mend = "take a teacher with this tokenizer, or let it write what is learned (`distill.answers: true`)"
                why = "it is given the student's ids, which it never saw in this order"
                return [Finding("distill.tokenization", str(example.source), what, mend, why)]
    if theirs.chat_template != backbone.tokenizer.chat_template and prepared.task.terminators(backbone):
        what = "the teacher's chat template is another one than the student's, whose rows it is given"
        mend = "set `model.template` to the teacher's, or take no notice where the task uses none"
        return [Finding("distill.template", "distill.teacher", what, mend, severity="note")]
    return []


def rows_fit_teacher(prepared: Prepared) -> list[Finding]:
    """No row is longer than the teacher's positions."""
    objective = prepared.objective
    if not isinstance(objective, Taught) or objective.teacher is None:
        return []
    most = objective.teacher.backbone.max_positions
    rows = objective.teacher_rows(prepared.train.rows)
    longest = max(max(len(row["input_ids"]), len(row.get("target_ids", ()))) for row in rows)
    if most is None or longest <= most:
        return []
    what = f"the longest row has {longest} tokens, and the teacher takes {most}"
    return [Finding("distill.too-long", "max_length", what, f"set `max_length: {most}`, or take another teacher")]
