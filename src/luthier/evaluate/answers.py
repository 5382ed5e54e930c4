"""Answers against those that are right: exact match and F1 of words, as SQuAD counts them.

Both compare texts in lower case without punctuation, articles and extra white space; of several right answers the best
counts; a question without an answer is right where nothing is answered (Rajpurkar et al. 2016, arXiv 1606.05250,
section 6.1; 2018, arXiv 1806.03822, section 5).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from luthier.evaluate.intervals import Metrics, mean_interval

METRICS = {"f1": True, "exact_match": True}
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """The order of steps is SQuAD's: lower case, no punctuation, no articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact(given: str, right: str) -> float:
    return float(normalised(given) == normalised(right))


def f1(given: str, right: str) -> float:
    """2 · shared words / words of both, counted as often as they occur; of two empty texts 1."""
    ours, theirs = normalised(given).split(), normalised(right).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def scores(given: str, right: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1), each the best over the right answers; without any the right answer is none."""
    known = [text for text in right if normalised(text)] or [""]
    return max(exact(given, text) for text in known), max(f1(given, text) for text in known)


def plain(given: Sequence[str], right: Sequence[Sequence[str]]) -> dict[str, float]:
    pairs = [scores(*pair) for pair in zip(given, right, strict=True)]
    exacts, f1s = zip(*pairs, strict=True)
    return {"f1": sum(f1s) / len(f1s), "exact_match": sum(exacts) / len(exacts)}


def with_intervals(given: Sequence[str], right: Sequence[Sequence[str]]) -> Metrics:
    """Means over questions, 0 to 1, with 95 % intervals; of answerable and unanswerable ones apart, where both are."""
    pairs = [scores(*pair) for pair in zip(given, right, strict=True)]
    found: Metrics = {name: mean_interval([pair[at] for pair in pairs]) for at, name in ((1, "f1"), (0, "exact_match"))}
    has = [any(normalised(text) for text in texts) for texts in right]
    if 0 < sum(has) < len(has):
        found["f1: answerable"] = mean_interval([pair[1] for pair, one in zip(pairs, has, strict=True) if one])
        found["f1: unanswerable"] = mean_interval([pair[1] for pair, one in zip(pairs, has, strict=True) if not one])
    return found
