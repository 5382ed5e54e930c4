"""Rows about pictures."""

from __future__ import annotations

from luthier.data.fields import Fields
from luthier.data.texts import read_label
from luthier.types import Example


def image_label(row: Fields) -> Example:
    return Example(row.source, images=row.pictures("image"), label=read_label(row))
