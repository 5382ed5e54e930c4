"""Bootstrap confidence intervals (Efron 1979): resample rows with replacement, take the 2.5 and 97.5 percentiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RESAMPLES = 1000


def interval(statistic: Callable[[np.ndarray], float], rows: int, resamples: int = RESAMPLES) -> dict[str, float]:
    """``statistic`` takes row indices; returns its value on all rows, with the interval. Seeded: always the same."""
    value = float(statistic(np.arange(rows)))
    generator = np.random.default_rng(0)
    drawn = [float(statistic(generator.integers(0, rows, rows))) for _ in range(resamples)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high), "n": rows}


def mean_interval(per_row: Sequence[float], weights: Sequence[float] | None = None) -> dict[str, float]:
    """Interval of a (weighted) mean of per-row scores."""
    values = np.asarray(per_row, dtype=float)
    weight = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    return interval(lambda i: (values[i] * weight[i]).sum() / max(weight[i].sum(), 1e-12), len(values))


Metrics = dict[str, dict[str, Any]]
