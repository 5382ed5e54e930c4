"""How passages rank for queries, and what is made of ranks: recall@k, MRR@k, nDCG@k; Spearman for scored pairs.

A query's relevant passages are those of its rows; all passages of all rows are ranked for it, by their product with the
query's vector, equals in the order of the rows. Definitions as trec_eval's (recall_k, recip_rank, ndcg_cut_k) with
relevance 0 or 1; MRR counts a first relevant passage after place k as 0.

Axes: Q queries, C passages, K rows, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.evaluate.intervals import Metrics, interval
from luthier.types import Features

RANKED = {"loss": False, "recall@1": True, "recall@10": True, "mrr@10": True, "ndcg@10": True}
SCORED = {"loss": False, "spearman": True, "pearson": True}
BLOCK = 2**24  # similarities held at a time


def settle_ranked(vectors: Sequence[Tensor], rows: Sequence[Features]) -> list[dict[str, Any]]:
    """For each row: the places (from 1) of its query's relevant passages, and the row and text of the first.

    ``rows_of_query`` is how many rows share the query, which counts once; ``first`` marks one of them.
    """
    queries: dict[int, list[int]] = {}
    passages: dict[int, tuple[int, int]] = {}  # key of a passage → the row and the text that it is first seen as
    for k, row in enumerate(rows):
        queries.setdefault(row["keys"][0], []).append(k)
        for text, key in enumerate(row["keys"][1:], start=1):
            passages.setdefault(key, (k, text))
    at = {key: c for c, key in enumerate(passages)}
    relevant = [sorted({at[rows[k]["keys"][1]] for k in those}) for those in queries.values()]
    queries_QD = torch.stack([vectors[those[0]][0] for those in queries.values()])
    passages_CD = torch.stack([vectors[k][text] for k, text in passages.values()])
    places, best = rank(queries_QD, passages_CD, relevant)
    shown = list(passages.values())
    settled: list[dict[str, Any]] = [{} for _ in rows]
    for those, found, top in zip(queries.values(), places, best, strict=True):
        for k in those:
            similarity = float(vectors[k][0] @ vectors[k][1])
            settled[k] = {"places": found, "best": shown[top], "similarity": similarity}
            settled[k] |= {"rows_of_query": len(those), "first": k == those[0]}
    return settled


def rank(
    queries_QD: Tensor, passages_CD: Tensor, relevant: Sequence[Sequence[int]]
) -> tuple[list[list[int]], list[int]]:
    """Places (from 1, ascending) of each query's relevant passages among all, and the passage in the first place."""
    places: list[list[int]] = []
    best: list[int] = []
    block = max(1, BLOCK // max(1, len(passages_CD)))
    order_C = torch.arange(len(passages_CD))
    for start in range(0, len(queries_QD), block):
        scores_QC = queries_QD[start : start + block] @ passages_CD.T
        for scores_C, those in zip(scores_QC, relevant[start : start + block], strict=True):
            before = [(scores_C > scores_C[c]) | ((scores_C == scores_C[c]) & (order_C < c)) for c in those]
            places.append(sorted(1 + int(mask.sum()) for mask in before))
            best.append(int(scores_C.argmax()))
    return places, best


def settle_scored(vectors: Sequence[Tensor], rows: Sequence[Features]) -> list[dict[str, Any]]:
    return [
        {"similarity": float(found[0] @ found[1]), "score": float(row["score"])}
        for found, row in zip(vectors, rows, strict=True)
    ]


def of_places(places: Sequence[int]) -> dict[str, float]:
    """The metrics of one query, from the places of all its relevant passages."""
    gains = sum(1 / math.log2(place + 1) for place in places if place <= 10)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(10, len(places)) + 1))
    return {
        "recall@1": sum(place <= 1 for place in places) / len(places),
        "recall@10": sum(place <= 10 for place in places) / len(places),
        "mrr@10": 1 / places[0] if places[0] <= 10 else 0.0,
        "ndcg@10": gains / ideal,
    }


def plain(outputs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over queries; correlations over scored pairs; nothing where rows are texts alone."""
    if not outputs or "similarity" not in outputs[0]:
        return {}
    if "score" in outputs[0]:
        return {name: statistic(np.arange(len(outputs))) for name, statistic in _correlations(outputs).items()}
    weights = np.array([1 / row["rows_of_query"] for row in outputs])
    found = [of_places(row["places"]) for row in outputs]
    return {name: float(np.average([one[name] for one in found], weights=weights)) for name in found[0]}


def with_intervals(outputs: Sequence[dict[str, Any]]) -> Metrics:
    """The same with bootstrap intervals over queries (or pairs)."""
    if not outputs or "similarity" not in outputs[0]:
        return {}
    if "score" in outputs[0]:
        return {name: interval(statistic, len(outputs)) for name, statistic in _correlations(outputs).items()}
    found = [of_places(row["places"]) for row in outputs if row["first"]]
    columns = {name: np.array([one[name] for one in found]) for name in found[0]}
    return {name: interval(lambda i, values=values: values[i].mean(), len(found)) for name, values in columns.items()}  # type: ignore[misc]


def _correlations(outputs: Sequence[dict[str, Any]]) -> dict[str, Callable[[np.ndarray], float]]:
    from scipy.stats import rankdata

    similarities, scores = (np.array([row[key] for row in outputs]) for key in ("similarity", "score"))

    def pearson(i: np.ndarray) -> float:
        return _correlation(similarities[i], scores[i])

    def spearman(i: np.ndarray) -> float:
        return _correlation(rankdata(similarities[i]), rankdata(scores[i]))

    return {"spearman": spearman, "pearson": pearson}


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; not a number where one side does not vary."""
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
