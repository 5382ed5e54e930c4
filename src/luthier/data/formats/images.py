"""Rows about pictures."""

from __future__ import annotations

from collections import Counter
from typing import Any

from luthier.data.files.reading import kind
from luthier.data.formats import pairs
from luthier.data.formats.fields import Fields
from luthier.data.formats.texts import read_label
from luthier.types import Example


def image_label(row: Fields) -> Example:
    return Example(row.source, images=row.pictures("image"), label=read_label(row))


def image_text_label(row: Fields) -> Example:
    text = row.text("text", target=True)
    return Example(row.source, images=row.pictures("image"), text=text, label=read_label(row))


CAPTION = ("caption", "captions", "sentences", "sentence", "description", "title", "text", "comment")


NEGATIVES = pairs.NEGATIVES | {"negative_images": ("negative_images", "negative_image")}


def image_caption(row: Fields) -> Example:
    """One caption or several, each of which says what the picture shows; with texts that do not, and pictures that
    they do not say, where a row has them."""
    captions, negatives = row.texts("caption"), pairs.texts_of(row, "negatives")
    pairs.differ(row, "negatives", "caption", captions, negatives)
    others = row.pictures("negative_images") if row.get("negative_images") else None
    return Example(
        row.source, images=row.pictures("image"), targets=captions, negatives=negatives or None, negative_images=others
    )


def image_question_answer(row: Fields) -> Example:
    """The answer that most people gave is learned, all are references."""
    question = row.text("question", target=True)
    found, column = row.get("answer"), row.column("answer")
    answers = [_answer(one) for one in (found if isinstance(found, list) else [found])]
    known = [one for one in answers if one is not None]
    if len(known) < len(answers):
        row.report("data.type", column, f"an answer is a text, a number or true or false, this is {kind(found)}")
    elif not known or not all(one.strip() for one in known):
        row.report("data.empty-target", column, "an answer is empty: there is nothing to learn")
    if known:
        counts, chosen = Counter(known), str(row.row.get("multiple_choice_answer"))
        first = chosen if chosen in counts else max(counts, key=lambda one: counts[one])
        known.remove(first)
        known.insert(0, first)
    return Example(row.source, images=row.pictures("image"), text=question, targets=known)


def _answer(given: Any) -> str | None:
    given = given.get("answer") if isinstance(given, dict) else given
    if isinstance(given, bool):
        return str(given).lower()
    return str(given) if isinstance(given, str | int | float) else None
