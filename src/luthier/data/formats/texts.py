"""Rows that are a text: with a label, with what is to be written about it, or by itself."""

from __future__ import annotations

import math
from typing import Any

from luthier.data.files.reading import kind
from luthier.data.formats.fields import Fields
from luthier.types import Example

TEXT = ("text", "sentence", "review", "utterance", "tweet", "comment")
LABEL = ("label", "labels", "intent", "category", "class", "score")


def text_label(fields: Fields) -> Example:
    return Example(fields.source, text=fields.text("text", target=True), label=read_label(fields))


def read_label(fields: Fields) -> Any:
    label, column = fields.get("label"), fields.column("label")
    names = isinstance(label, list) and all(isinstance(name, str) for name in label)
    if label is None or label == "":
        fields.report("data.empty-target", column, f"the label is {'null' if label is None else 'empty'}")
    elif isinstance(label, float) and not math.isfinite(label):
        fields.report("data.type", column, f"the label must be a finite number, this is {label}")
    elif not names and not isinstance(label, str | int | float):
        inside = " of other things" if isinstance(label, list) else ""
        fields.report(
            "data.type", column, f"a label is text, a number or a list of texts, this is {kind(label)}{inside}"
        )
    return label


def document_summary(fields: Fields) -> Example:
    """A list of summaries are references of one document; the first is what is learned."""
    return Example(fields.source, text=fields.text("document", target=True), targets=fields.texts("summary"))


def plain_text(fields: Fields) -> Example:
    return Example(fields.source, text=fields.text("text", target=True))
