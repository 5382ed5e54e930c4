"""Questions with their answers, as SQuAD, Natural Questions and PubMedQA have them."""

from __future__ import annotations

from typing import Any

from luthier.data.files.reading import kind
from luthier.data.formats.fields import Fields
from luthier.types import Example, Span

SQUAD = {
    "question": ("question",), "context": ("context", "contexts", "passage"), "answers": ("answers", "answer"),
}  # fmt: skip
OPEN = {"question": ("question",), "answers": ("answers",)}


def squad(fields: Fields) -> Example:
    """``answers`` is a text, a list of texts, or ``{"text": [...], "answer_start": [...]}``; none: unanswerable.

    A place that is not told is -1, and is looked for by the task that needs it.
    """
    context = fields.get("context")
    if isinstance(context, list) and all(isinstance(part, str) for part in context):
        context = "\n\n".join(context)
    if not isinstance(context, str):
        fields.report("data.type", fields.column("context"), f"must be text, this is {kind(context)}")
    elif not context.strip():
        fields.report("data.empty-text", fields.column("context"), "is empty: there is nothing to find an answer in")
    texts, starts = _answers(fields)
    spans: list[Span] = [(at, at + len(text), text) for text, at in zip(texts, starts, strict=True)]
    asked = fields.text("question", target=True)
    return Example(fields.source, text=str(context), question=asked, targets=texts, spans=spans)


def open_question(fields: Fields) -> Example:
    texts, _ = _answers(fields)
    if not texts and not fields.findings:
        fields.report("data.empty-target", fields.column("answers"), "has no answer: there is nothing to learn")
    return Example(fields.source, question=fields.text("question", target=True), targets=texts)


def _answers(fields: Fields) -> tuple[list[str], list[int]]:
    value: Any = fields.get("answers")
    column = fields.column("answers")
    if fields.row.get("is_impossible") is True or value in (None, "", []):
        return [], []
    starts: Any = None
    if isinstance(value, dict):
        value, starts = value.get("text"), value.get("answer_start")
    texts: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        fields.report("data.type", column, f"an answer is text or a list of texts, this is {kind(value)}")
        return [], []
    if not all(text.strip() for text in texts):
        fields.report("data.empty-target", column, "an answer is empty: leave it out where there is none")
    starts = starts if isinstance(starts, list) else [-1 if starts is None else starts] * len(texts)
    if len(starts) != len(texts) or not all(isinstance(at, int) for at in starts):
        fields.report("data.type", column, f"{len(texts)} answers need as many whole numbers in `answer_start`")
        return [], []
    return texts, starts
