"""Rows that are a text in two languages, or any source with its target.

    {"translation": {"en": "The cat sleeps.", "de": "Die Katze schläft."}}
    {"source": "The cat sleeps.", "target": "Die Katze schläft."}

Which language is translated into which, the task is told. A target may be a list of texts: all are references.
"""

from __future__ import annotations

from typing import Any

from luthier.data.files.reading import kind
from luthier.data.formats.fields import Fields
from luthier.types import Example


def translation(fields: Fields) -> Example:
    """Each language's text or texts. Until the task chooses, the first language is the row's ``text``."""
    column, given = fields.column("translation"), fields.get("translation")
    if not isinstance(given, dict) or len(given) < 2:
        what = f"must be an object with a text for each of two languages or more, this is {kind(given)}"
        fields.report("data.type", column, what)
        return Example(fields.source)
    found = {language: texts_of(fields, said, f"{column}.{language}") for language, said in given.items()}
    first, second, *_ = found
    return Example(fields.source, text=(found[first] or [""])[0], targets=found[second], translations=found)


def source_target(fields: Fields) -> Example:
    targets = texts_of(fields, fields.get("target"), fields.column("target"))
    return Example(fields.source, text=fields.text("source", target=True), targets=targets)


def texts_of(fields: Fields, given: Any, at: str) -> list[str]:
    """A text or a list of texts, none of them empty."""
    texts = given if isinstance(given, list) else [given]
    if not all(isinstance(text, str) for text in texts):
        fields.report("data.type", at, f"must be text or a list of texts, this is {kind(given)}")
        return []
    if not texts or not all(text.strip() for text in texts):
        fields.report("data.empty-target", at, "is empty: there is nothing to learn")
    return texts
