"""Metrics of classifiers, by scikit-learn: accuracy, macro F1, ROC AUC; several labels; numbers.

Axes: K rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from luthier.evaluate.intervals import Metrics, interval, mean_interval

# The metrics of each kind, and whether higher is better.
METRICS = {
    "single": {"accuracy": True, "f1_macro": True},
    "multi": {"f1_micro": True, "f1_macro": True, "exact_match": True},
    "regression": {"mae": False, "rmse": False, "spearman": True},
}
# Macro F1 needs a full pass of scikit-learn for each resample; the others are means of per-row scores.
F1_RESAMPLES = 200


def plain(logits: list[list[float]], targets: list[Any], kind: str) -> dict[str, float]:
    """Metrics without intervals, for use during training. ``kind``: "single", "multi" or "regression"."""
    return {
        name: float(statistic(np.arange(len(targets))))
        for name, statistic in _statistics(logits, targets, kind).items()
    }


def with_intervals(logits: list[list[float]], targets: list[Any], kind: str) -> Metrics:
    found: Metrics = {}
    for name, statistic in _statistics(logits, targets, kind).items():
        if name == "accuracy":
            found[name] = mean_interval(_predicted(logits) == np.asarray(targets))  # type: ignore[arg-type]
        else:
            found[name] = interval(statistic, len(targets), F1_RESAMPLES)
    return found


def _predicted(logits: list[list[float]]) -> np.ndarray:
    return np.asarray(logits).argmax(axis=1)


def _statistics(logits: list[list[float]], targets: list[Any], kind: str) -> dict[str, Callable[[np.ndarray], float]]:
    from scipy.stats import spearmanr
    from sklearn.metrics import f1_score

    scores_KC, truth = np.asarray(logits), np.asarray(targets)
    if kind == "single":
        predicted_K = _predicted(logits)
        return {
            "accuracy": lambda i: (predicted_K[i] == truth[i]).mean(),
            "f1_macro": lambda i: f1_score(truth[i], predicted_K[i], average="macro", zero_division=0),
        }
    if kind == "multi":
        chosen_KC = scores_KC > 0
        return {
            "f1_micro": lambda i: f1_score(truth[i], chosen_KC[i], average="micro", zero_division=0),
            "f1_macro": lambda i: f1_score(truth[i], chosen_KC[i], average="macro", zero_division=0),
            "exact_match": lambda i: (chosen_KC[i] == truth[i]).all(axis=1).mean(),
        }
    predicted_K = scores_KC[:, 0]
    return {
        "mae": lambda i: np.abs(predicted_K[i] - truth[i]).mean(),
        "rmse": lambda i: np.sqrt(np.square(predicted_K[i] - truth[i]).mean()),
        "spearman": lambda i: spearmanr(predicted_K[i], truth[i]).statistic if len(set(truth[i])) > 1 else float("nan"),
    }
