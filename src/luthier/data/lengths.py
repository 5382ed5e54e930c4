"""Sequences that lie end to end in one row, as its ``lengths`` say; and one that is cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any


def split(flat: Any, lengths: Sequence[int]) -> list[Any]:
    """``[a, b, c]`` by lengths 2 and 1: ``[a, b]`` and ``[c]``."""
    return [flat[start:end] for start, end in pairwise([0, *accumulate(lengths)])]


def cut_text(tokenizer: Any, text: str, limit: int | None) -> tuple[list[int], int]:
    """Ids of a text, with what opens and closes it, at most ``limit`` of them; and how many they were before."""
    ids = tokenizer(text, verbose=False)["input_ids"]
    full = len(ids)
    if limit is not None and full > limit:
        ids = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
    return ids, full
