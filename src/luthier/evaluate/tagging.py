"""Metrics of tagged words: entities found (precision, recall, F1, of each type too) and the share of right tags.

An entity counts where its words and its type are exactly those of the target: Tjong Kim Sang and De Meulder 2003
(CoNLL-2003), section 4. The same numbers as seqeval gives in its default mode (tests/parity/test_entities.py).
Intervals resample rows.

Axes: K rows, E types.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luthier.data.text.tags import entities
from luthier.evaluate.intervals import Metrics, interval, mean_interval

# The metrics of each kind, and whether higher is better.
METRICS = {
    "entities": {"f1": True, "precision": True, "recall": True, "token_accuracy": True},
    "plain": {"token_accuracy": True},
}

Tags = Sequence[Sequence[str]]
NONE = "–"


class Counts:
    """How many entities of each type are in both, predicted and expected, in each row: (3, K, E)."""

    def __init__(self, predicted: Tags, expected: Tags):
        found = [({*entities(ours)}, {*entities(theirs)}) for ours, theirs in zip(predicted, expected, strict=True)]
        self.types = sorted({kind for pair in found for side in pair for _, _, kind in side})
        at = {kind: number for number, kind in enumerate(self.types)}
        self.counts_3KE = np.zeros((3, len(found), len(self.types)))
        for row, (ours, theirs) in enumerate(found):
            for part, side in enumerate((ours & theirs, ours, theirs)):
                for _, _, kind in side:
                    self.counts_3KE[part, row, at[kind]] += 1

    def scores(self, rows_K: np.ndarray, kind: str | None = None) -> tuple[float, float, float]:
        """(precision, recall, F1) over the chosen rows; 0 where there is nothing to divide by."""
        chosen_3KE = self.counts_3KE if kind is None else self.counts_3KE[:, :, [self.types.index(kind)]]
        both, ours, theirs = (float(part) for part in chosen_3KE[:, rows_K].sum((1, 2)))
        return ratio(both, ours), ratio(both, theirs), ratio(2 * both, ours + theirs)


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def plain(predicted: Tags, expected: Tags, kind: str) -> dict[str, float]:
    """Metrics without intervals. ``kind``: "entities" or "plain"."""
    right, words = zip(*(_right(*pair) for pair in zip(predicted, expected, strict=True)), strict=True)
    found = {"token_accuracy": ratio(sum(right), sum(words))}
    if kind == "entities":
        precision, recall, f1 = Counts(predicted, expected).scores(np.arange(len(expected)))
        found |= {"f1": f1, "precision": precision, "recall": recall}
    return found


def with_intervals(predicted: Tags, expected: Tags, kind: str) -> Metrics:
    """The same with 95 % intervals, and the F1 of each type (``f1: PER``)."""
    found: Metrics = {}
    if kind == "entities":
        counts, rows = Counts(predicted, expected), len(expected)
        for at, name in ((2, "f1"), (0, "precision"), (1, "recall")):
            found[name] = interval(lambda i, at=at: counts.scores(i)[at], rows)  # type: ignore[misc]
        for of_type in counts.types:
            scored = interval(lambda i, of_type=of_type: counts.scores(i, of_type)[2], rows)  # type: ignore[misc]
            found[f"f1: {of_type}"] = scored | {"n": int(counts.counts_3KE[2, :, counts.types.index(of_type)].sum())}
    right, words = zip(*(_right(*pair) for pair in zip(predicted, expected, strict=True)), strict=True)
    shares = [ratio(ours, whole) for ours, whole in zip(right, words, strict=True)]
    return found | {"token_accuracy": mean_interval(shares, words)}


def _right(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, int]:
    return sum(a == b for a, b in zip(ours, theirs, strict=True)), len(theirs)


def confused(predicted: Tags, expected: Tags, kind: str) -> list[tuple[str, str]]:
    """(what it is, what it was taken for) of each word, or by type of each entity; "–" is none with the same words."""
    pairs: list[tuple[str, str]] = []
    for ours, theirs in zip(predicted, expected, strict=True):
        if kind == "plain":
            pairs += zip(theirs, ours, strict=True)
            continue
        of_ours = {(start, end): of_type for start, end, of_type in entities(ours)}
        of_theirs = {(start, end): of_type for start, end, of_type in entities(theirs)}
        words = sorted(of_ours.keys() | of_theirs.keys())
        pairs += [(of_theirs.get(place, NONE), of_ours.get(place, NONE)) for place in words]
    return pairs
