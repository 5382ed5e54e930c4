"""Metrics of classifiers: accuracy, macro F1; several labels; numbers. F1 is counted here, as scikit-learn defines it.

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
# What is no mean of per-row scores takes longer for each resample.
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

    scores_KC, truth = np.asarray(logits), np.asarray(targets)
    if kind == "single":
        predicted_K = _predicted(logits)
        return {
            "accuracy": lambda i: (predicted_K[i] == truth[i]).mean(),
            "f1_macro": _f1_of_one(predicted_K, truth),
        }
    if kind == "multi":
        chosen_KC, given_KC = scores_KC > 0, truth > 0
        both_KC, any_KC = chosen_KC & given_KC, chosen_KC.astype(int) + given_KC

        def f1_macro(i: np.ndarray) -> float:
            """A label that is neither chosen nor given counts as 0."""
            return float((2 * both_KC[i].sum(0) / np.maximum(any_KC[i].sum(0), 1)).mean())

        return {
            "f1_micro": lambda i: 2 * both_KC[i].sum() / max(any_KC[i].sum(), 1),
            "f1_macro": f1_macro,
            "exact_match": lambda i: (chosen_KC[i] == given_KC[i]).all(axis=1).mean(),
        }
    predicted_K = scores_KC[:, 0]
    return {
        "mae": lambda i: np.abs(predicted_K[i] - truth[i]).mean(),
        "rmse": lambda i: np.sqrt(np.square(predicted_K[i] - truth[i]).mean()),
        "spearman": lambda i: spearmanr(predicted_K[i], truth[i]).statistic if len(set(truth[i])) > 1 else float("nan"),
    }


def _f1_of_one(predicted_K: np.ndarray, truth_K: np.ndarray) -> Callable[[np.ndarray], float]:
    """The mean of F1 over the classes that a resample has, predicted or true: 2 · right / (predicted + true)."""
    classes, at = np.unique(np.concatenate([predicted_K, truth_K]), return_inverse=True)
    chosen_K, given_K = at[: len(predicted_K)], at[len(predicted_K) :]

    def f1_macro(i: np.ndarray) -> float:
        chosen, given = chosen_K[i], given_K[i]
        right_C, chosen_C, given_C = (
            np.bincount(of, minlength=len(classes)) for of in (given[chosen == given], chosen, given)
        )
        there_C = chosen_C + given_C > 0
        return float((2 * right_C[there_C] / (chosen_C + given_C)[there_C]).mean())

    return f1_macro
