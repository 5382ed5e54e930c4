"""Entities and translations scored as the field's libraries score them; skips where one is not installed."""

from __future__ import annotations

import random

import pytest

from luthier.evaluate import tagging, translation

TAGS = ["O", "B-P", "I-P", "E-P", "S-P", "B-L", "I-L", "E-L", "S-L"]


@pytest.mark.parametrize("names", [TAGS, TAGS[:3] + TAGS[5:7]])
def test_entities_are_counted_as_seqeval_counts_them(names: list[str]) -> None:
    """Random tags, broken sequences of every kind among them."""
    seqeval = pytest.importorskip("seqeval.metrics")
    draw = random.Random(0)
    lengths = [draw.randint(1, 12) for _ in range(300)]
    ours, theirs = ([draw.choices(names, k=length) for length in lengths] for _ in range(2))
    found = tagging.plain(ours, theirs, "entities")
    assert found["f1"] == pytest.approx(seqeval.f1_score(theirs, ours), abs=1e-12)
    assert found["precision"] == pytest.approx(seqeval.precision_score(theirs, ours), abs=1e-12)
    assert found["recall"] == pytest.approx(seqeval.recall_score(theirs, ours), abs=1e-12)
    assert found["token_accuracy"] == pytest.approx(seqeval.accuracy_score(theirs, ours), abs=1e-12)


def test_bleu_and_chrf_are_sacrebleus() -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    written = ["the cat sat on the mat", "a dog ran in the park", "it rains"]
    known = [["the cat sat on a mat", "a cat sat"], ["the dog ran in the park"], ["it is raining"]]
    columns = [[one[0] for one in known], [one[1] if len(one) > 1 else None for one in known]]
    found = translation.with_intervals(written, known)
    assert found["bleu"]["value"] == pytest.approx(metrics.BLEU().corpus_score(written, columns).score)
    assert found["chrf"]["value"] == pytest.approx(metrics.CHRF().corpus_score(written, columns).score)
    assert "version:" in found["bleu"]["signature"]
    assert found["exact_match"]["value"] == 0
