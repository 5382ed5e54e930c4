"""Rows about pictures."""

from __future__ import annotations

from luthier.data.fields import Fields
from luthier.data.texts import read_label
from luthier.types import Example


def image_label(row: Fields) -> Example:
    return Example(row.source, images=row.pictures("image"), label=read_label(row))


def image_text_label(row: Fields) -> Example:
    text = row.text("text", target=True)
    return Example(row.source, images=row.pictures("image"), text=text, label=read_label(row))
