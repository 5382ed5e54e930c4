"""Several sequences that lie end to end in one row, as its ``lengths`` say."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any


def split(flat: Any, lengths: Sequence[int]) -> list[Any]:
    """``[a, b, c]`` by lengths 2 and 1: ``[a, b]`` and ``[c]``."""
    return [flat[start:end] for start, end in pairwise([0, *accumulate(lengths)])]
