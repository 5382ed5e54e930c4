"""Sequences that lie end to end in one row, as its ``lengths`` say; and one that is cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from luthier.types import Features


def split(flat: Any, lengths: Sequence[int]) -> list[Any]:
    """``[a, b, c]`` by lengths 2 and 1: ``[a, b]`` and ``[c]``."""
    return [flat[start:end] for start, end in pairwise([0, *accumulate(lengths)])]


def sequences(row: Features) -> list[Features]:
    """The sequences of a row, or the row itself where it is one: ``input_ids`` and ``supervised`` of each, and the
    ``pictures`` that all of them see; these are there ``again`` in the second."""
    if "lengths" not in row:
        return [row]
    names = [name for name in ("input_ids", "supervised") if name in row]
    parts = [dict(zip(names, some, strict=True))
             for some in zip(*(split(row[name], row["lengths"]) for name in names), strict=True)]  # fmt: skip
    if row.get("pictures"):
        shared = {name: row[name] for name in ("pictures", "row", "epoch") if name in row}
        parts = [part | shared | {"again": at > 0} for at, part in enumerate(parts)]
    return parts


def cut_text(tokenizer: Any, text: str, limit: int | None) -> tuple[list[int], int]:
    """Ids of a text, with what opens and closes it, at most ``limit`` of them; and how many they were before."""
    ids = tokenizer(text, verbose=False)["input_ids"]
    full = len(ids)
    if limit is not None and full > limit:
        ids = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
    return ids, full
