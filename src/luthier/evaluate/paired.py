"""Methods judged on the same rows: intervals, and whether a difference is more than chance (Efron and Tibshirani 1993).

Every run's metric is computed on the same resamples of the rows, whatever the metric is; so the b-th replicates of two
runs belong together, and their differences are a paired bootstrap.

Axes: S runs (seeds) of a method, B resamples, K rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RESAMPLES = 1000
TRIED = 10


def replicates(
    statistic: Callable[[Sequence[int]], float], per_row: Sequence[float], resamples: int = RESAMPLES
) -> list[float]:
    """``statistic`` (of row indices) on each resample. Seeded by the number of rows alone: the same for every run.

    ``per_row`` is the statistic of each row alone. Where the first resamples show that the statistic is their mean (as
    accuracy is), the others are made from them at once.
    """
    rows, values_K = len(per_row), np.asarray(per_row, dtype=float)
    drawn_BK = np.random.default_rng(rows).integers(0, rows, (resamples, rows))
    means_B = values_K[drawn_BK].mean(axis=1)
    tried = [float(statistic(drawn_K.tolist())) for drawn_K in drawn_BK[:TRIED]]
    if np.allclose(tried, means_B[:TRIED], rtol=1e-9, atol=1e-12):
        return means_B.tolist()
    return tried + [float(statistic(drawn_K.tolist())) for drawn_K in drawn_BK[TRIED:]]


def summary(scores_S: Sequence[float], replicates_SB: Sequence[Sequence[float]], rows: int) -> dict[str, Any]:
    """The mean over the seeds with its 95 % interval over the rows, and the lowest and highest seed."""
    low, high = np.nanpercentile(np.mean(replicates_SB, axis=0), [2.5, 97.5])
    spread = {"min": min(scores_S), "max": max(scores_S), "seeds": list(scores_S)}
    return {"value": float(np.mean(scores_S)), "low": float(low), "high": float(high), "n": rows, **spread}


def difference(
    scores_S: Sequence[float],
    replicates_SB: Sequence[Sequence[float]],
    best_S: Sequence[float],
    best_SB: Sequence[Sequence[float]],
) -> dict[str, float]:
    """A method's mean score less that of the best, with a 95 % interval and a two-sided p.

    The rows are resampled for both alike; the seeds are resampled too, for each on its own, so that a lucky seed does
    not pass for a better method. ``p`` is twice the share of resamples on the far side of zero.
    """
    ours_B, theirs_B = _over_seeds(replicates_SB, 1), _over_seeds(best_SB, 2)
    drawn_B = ours_B - theirs_B
    low, high = np.nanpercentile(drawn_B, [2.5, 97.5])
    side = min((drawn_B <= 0).mean(), (drawn_B >= 0).mean())
    p = min(1.0, 2 * max(float(side), 1 / len(drawn_B)))
    return {"value": float(np.mean(scores_S) - np.mean(best_S)), "low": float(low), "high": float(high), "p": p}


def _over_seeds(replicates_SB: Sequence[Sequence[float]], seed: int) -> np.ndarray:
    """For each resample of the rows, the mean over as many seeds, drawn with replacement."""
    values_SB = np.asarray(replicates_SB)
    seeds, resamples = values_SB.shape
    drawn_SB = np.random.default_rng(seed).integers(0, seeds, (seeds, resamples))
    return np.take_along_axis(values_SB, drawn_SB, axis=0).mean(axis=0)
