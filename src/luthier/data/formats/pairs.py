"""Texts that belong together: a query with its passages, or two texts with a score of how alike they are.

| row | becomes |
|---|---|
| query, positive (a text or a list), negatives (a text or a list)? | text, targets, negatives |
| sentence1, sentence2, score | text, targets (one), label (a number) |
"""

from __future__ import annotations

import math
from contextlib import suppress

from luthier.data.files.reading import kind
from luthier.data.formats.fields import Fields
from luthier.data.split import normalised
from luthier.types import Example

QUERY_POSITIVE = {
    "query": ("query", "anchor", "question"),
    "positive": ("positive", "positives", "passage", "context", "contexts"),
}
NEGATIVES = {"negatives": ("negatives", "negative", "hard_negatives", "hard_negative")}
SCORED_PAIR = {
    "sentence1": ("sentence1", "text1"), "sentence2": ("sentence2", "text2"),
    "score": ("score", "similarity", "similarity_score", "label"),
}  # fmt: skip


def query_positive(fields: Fields) -> Example:
    """Of several positives each is a pair of its own. A text stands on one side only."""
    query = fields.text("query", target=True)
    positives, negatives = texts_of(fields, "positive"), texts_of(fields, "negatives")
    if not positives and not fields.findings:
        fields.report("data.empty-target", fields.column("positive"), "there is no positive: nothing belongs together")
    differ(fields, "positive", "query", [query], positives)
    differ(fields, "negatives", "positive", positives, negatives)
    return Example(fields.source, text=query, targets=positives, negatives=negatives or None)


def scored_pair(fields: Fields) -> Example:
    first, second = (fields.text(name, target=True) for name in ("sentence1", "sentence2"))
    score, column = fields.get("score"), fields.column("score")
    if isinstance(score, str):
        with suppress(ValueError):
            score = float(score)
    if isinstance(score, bool) or not isinstance(score, int | float):
        fields.report("data.type", column, f"a score is a number, this is {kind(score)}")
    elif not math.isfinite(score):
        fields.report("data.type", column, f"a score must be a finite number, this is {score}")
    else:
        score = float(score)
    return Example(fields.source, text=first, targets=[second], label=score)


def differ(fields: Fields, name: str, other: str, taken: list[str], texts: list[str]) -> None:
    """Report those of ``name`` that say what one of ``taken``, the ``other`` side, says."""
    known = set(map(normalised, taken))
    for text in texts:
        if text.strip() and normalised(text) in known:
            what = f"this {name.removesuffix('s')} is the {other} itself: {text[:60]!r}"
            mend = "give another text: it would teach nothing" if other == "query" else "leave it on one side"
            fields.report("data.same-text", fields.column(name), what, mend)


def texts_of(fields: Fields, name: str) -> list[str]:
    found, column = fields.get(name), fields.column(name)
    several = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(text, str) for text in several):
        fields.report("data.type", column, f"this must be a text or a list of texts, it is {kind(found)}")
        return []
    if not all(text.strip() for text in several):
        fields.report("data.empty-text", column, "a text is empty", "give it words, or leave it out")
    return several
