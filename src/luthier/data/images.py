"""Rows about pictures."""

from __future__ import annotations

from luthier.data.fields import Fields
from luthier.data.files import kind
from luthier.data.texts import read_label
from luthier.types import Example


def image_label(row: Fields) -> Example:
    return Example(row.source, images=row.pictures("image"), label=read_label(row))


def image_text_label(row: Fields) -> Example:
    text = row.text("text", target=True)
    return Example(row.source, images=row.pictures("image"), text=text, label=read_label(row))


CAPTION = ("caption", "captions", "sentences", "sentence", "description", "title", "text", "comment")


def image_caption(row: Fields) -> Example:
    """One caption or several, each of which says what the picture shows."""
    found, column = row.get("caption"), row.column("caption")
    captions = found if isinstance(found, list) else [found]
    if not all(isinstance(caption, str) for caption in captions):
        row.report("data.type", column, f"must be a text or a list of texts, this is {kind(found)}")
        captions = []
    elif not captions or not all(caption.strip() for caption in captions):
        row.report("data.empty-target", column, "a caption is empty: there is nothing to learn")
    return Example(row.source, images=row.pictures("image"), targets=captions)
