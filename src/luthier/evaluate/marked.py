"""Tagged words as what a person reads: windows of a text put together, entities as parts of it, and the text marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from luthier.data.text.tags import entities
from luthier.data.text.words import Place
from luthier.types import Features

Tagged = dict[int, tuple[int, float]]
"""By word: the number of its tag, and how probable it is. Words without a token are not there."""


def answered(outputs: Sequence[dict[str, Any]]) -> dict[int, Tagged]:
    """What was found in each example, by its number: its windows together."""
    found: dict[int, Tagged] = {}
    for output in outputs:
        of_words = zip(output["tags"], output["scores"], strict=True)
        found.setdefault(output["row"], {}).update(zip(output["words"], of_words, strict=True))
    return found


def expected(rows: Sequence[Features]) -> Iterator[tuple[int, list[int]]]:
    """(number, target of each word) of each example whose windows are ``rows``."""
    found: dict[int, dict[int, int]] = {}
    for row in rows:
        found.setdefault(row["row"], {}).update(zip(row["words"], row["targets"], strict=True))
    return ((number, [targets[word] for word in sorted(targets)]) for number, targets in found.items())


def spans(
    text: str, places: Sequence[Place], tags: Sequence[str], kind: str, scores: Sequence[float | None] = ()
) -> list[dict[str, Any]]:
    """Each entity (or, of the kind "plain", each word) as ``{"text", "start", "end", "label", "score"}``.

    The score of an entity is the mean probability of its words' tags, where there are ``scores``.
    """
    found = entities(tags) if kind == "entities" else [(at, at + 1, tag) for at, tag in enumerate(tags)]
    told = []
    for first, after, label in found:
        start, end = places[first][0], places[after - 1][1]
        known = [score for score in scores[first:after] if score is not None]
        score = {"score": sum(known) / len(known)} if known else {}
        told.append({"text": text[start:end], "start": start, "end": end, "label": label, **score})
    return told


def marked(text: str, found: Sequence[dict[str, Any]]) -> str:
    """``[Ada Lovelace](PER) wrote it``: the text with its parts in brackets, each followed by what it is."""
    parts, at = [], 0
    for span in found:
        parts += [text[at : span["start"]], f"[{span['text']}]({span['label']})"]
        at = span["end"]
    return "".join([*parts, text[at:]])
