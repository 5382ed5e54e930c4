"""Captions against what several people said of the same picture: CIDEr-D and ROUGE-L, as COCO's evaluation counts them.

CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726, section 4, with the changes of its appendix): of n-grams of 1 to 4
words, weighted by how few pictures' references have them,

    g(c)  = tf(n-gram in c) · (log pictures − log max(1, pictures whose references have it))
    s_n   = 10/m Σ_references exp(−(l_c − l_r)² / 2σ²) · Σ min(g(c), g(r)) g(r) / (|g(c)| |g(r)|),   σ = 6

and the mean of s_1 to s_4. With one picture all weights are 0. The length l counts pairs of words, as COCO's code does.
ROUGE-L: F of the longest common subsequence, with β = 1.2 and the best precision and recall over the references.

Words are lower case without punctuation, with `n't` and `'s` apart, which is near to what COCO's evaluation takes from
the tokenizer of the Penn Treebank, and not the same: `x-ray` and other rarities differ.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from luthier.evaluate.intervals import Metrics, mean_interval

LONGEST, SIGMA, BETA = 4, 6.0, 1.2
CLITICS = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b")
WORD = re.compile(r"n't|'(?:s|re|ve|ll|d|m)\b|\w+(?:-\w+)*")
Weights = list[dict[tuple[str, ...], float]]


def words(text: str) -> list[str]:
    return WORD.findall(CLITICS.sub(lambda found: f" {found.group()} ", text.lower().replace("’", "'")))


def cider_d(written: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """Of each caption, 0 to 10; both are lists of words. The weights come from all ``references`` together."""
    seen: Counter[tuple[str, ...]] = Counter()
    for some in references:
        seen.update({gram for one in some for gram in _grams(one)})
    pictures = math.log(len(references))

    def weighted(text: Sequence[str]) -> Weights:
        vectors: Weights = [{} for _ in range(LONGEST)]
        for gram, count in _grams(text).items():
            vectors[len(gram) - 1][gram] = count * (pictures - math.log(max(1, seen[gram])))
        return vectors

    scores = []
    for text, some in zip(written, references, strict=True):
        mine = weighted(text)
        total = 0.0
        for one in some:
            near = math.exp(-((_pairs(text) - _pairs(one)) ** 2) / (2 * SIGMA**2))
            total += near * sum(_alike(*pair) for pair in zip(mine, weighted(one), strict=True)) / LONGEST
        scores.append(10 * total / len(some))
    return scores


def _grams(text: Sequence[str]) -> Counter[tuple[str, ...]]:
    sizes = range(1, LONGEST + 1)
    return Counter(tuple(text[at : at + n]) for n in sizes for at in range(len(text) - n + 1))


def _pairs(text: Sequence[str]) -> int:
    return max(0, len(text) - 1)


def _alike(ours: dict[tuple[str, ...], float], theirs: dict[tuple[str, ...], float]) -> float:
    lengths = math.hypot(*ours.values()) * math.hypot(*theirs.values())
    if not lengths:
        return 0.0
    return sum(min(weight, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, weight in ours.items()) / lengths


def rouge_l(text: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """0 to 1."""
    if not text:
        return 0.0
    common = [_common(text, one) for one in references]
    precision = max(found / len(text) for found in common)
    recall = max(found / max(1, len(one)) for found, one in zip(common, references, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision and recall else 0.0


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for one in a:
        before = 0
        for at, other in enumerate(b, start=1):
            before, row[at] = row[at], before + 1 if one == other else max(row[at], row[at - 1])
    return row[-1]


def with_intervals(written: Sequence[str], references: Sequence[Sequence[str]]) -> Metrics:
    """``cider_d`` (0 to 10) and ``rouge_l`` (0 to 1), means over pictures with 95 % intervals."""
    ours, theirs = [words(text) for text in written], [[words(one) for one in some] for some in references]
    longest = [rouge_l(*pair) for pair in zip(ours, theirs, strict=True)]
    return {"cider_d": mean_interval(cider_d(ours, theirs)), "rouge_l": mean_interval(longest)}
