"""ROUGE counted by hand."""

from __future__ import annotations

import pytest

from luthier.evaluate import rouge

pytestmark = pytest.mark.skipif(not rouge.available(), reason="rouge-score is not installed")


def value(written: list[str], references: list[list[str]]) -> dict[str, float]:
    return {kind: metric["value"] for kind, metric in rouge.with_intervals(written, references).items()}


def test_words_pairs_and_subsequence() -> None:
    """Written "the cat sat", reference "the cat was on the mat".

    Words: the and cat are in both, precision 2/3, recall 2/6, F1 = 2 · 2 / (3 + 6) = 4/9. Pairs: "the cat" is one of 2
    and of 5, F1 = 2/7. The longest common subsequence is "the cat": 4/9.
    """
    found = value(["the cat sat"], [["the cat was on the mat"]])
    assert found == pytest.approx({"rouge1": 4 / 9, "rouge2": 2 / 7, "rougeL": 4 / 9})


def test_order_counts_for_the_subsequence_alone() -> None:
    """ "b a" against "a b": both words, no pair, and one of two in order."""
    assert value(["b a"], [["a b"]]) == pytest.approx({"rouge1": 1, "rouge2": 0, "rougeL": 1 / 2})


def test_the_best_reference_counts_and_rows_are_averaged() -> None:
    """The first row is its second reference; nothing of the second row is in its only one."""
    found = value(["red cats", "blue"], [["green dogs", "red cat"], ["green"]])
    assert found == pytest.approx({"rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5})
