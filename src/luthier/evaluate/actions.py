"""How far predicted actions are from those that were done, beside what anyone could guess.

Names: accuracy; beside it the most frequent name, and doing again what was done last. Numbers: the mean absolute error
of the next action, each number in halves of its range (0.1: a twentieth of it); beside it the mean action and the last
one. An interval resamples whole episodes, as steps of one are alike.

Axes: R rows (steps), A numbers of an action.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from luthier.evaluate.intervals import Metrics, interval

NAMES = {"accuracy": True, "accuracy_last_action": True, "accuracy_most_frequent": True}
NUMBERS = {"action_error": False, "action_error_last_action": False, "action_error_mean_action": False}


def of_names(predicted: Sequence[str], true: Sequence[str], last: Sequence[str | None]) -> dict[str, np.ndarray]:
    """The score of each row, by metric. The first step of an episode has no last action, and is wrong there."""
    most = Counter(true).most_common(1)[0][0]
    return {
        "accuracy": np.array([a == b for a, b in zip(predicted, true, strict=True)], dtype=float),
        "accuracy_last_action": np.array([a == b for a, b in zip(last, true, strict=True)], dtype=float),
        "accuracy_most_frequent": np.array([most == one for one in true], dtype=float),
    }


def of_numbers(predicted_RA: np.ndarray, true_RA: np.ndarray, last_RA: np.ndarray, mean_A: np.ndarray) -> dict[
    str, np.ndarray
]:  # fmt: skip
    """The error of each row, all scaled; ``last_RA`` is the mean action where there was none."""
    guesses = (predicted_RA, last_RA, np.broadcast_to(mean_A, true_RA.shape))
    return {name: np.abs(guess - true_RA).mean(1) for name, guess in zip(NUMBERS, guesses, strict=True)}


def with_intervals(scores: dict[str, np.ndarray], episodes: Sequence[int]) -> Metrics:
    """Means over rows, with intervals over the episodes that the rows are of."""
    _, of = np.unique(episodes, return_inverse=True)
    counts = np.bincount(of)
    return {
        name: interval(_ratio(np.bincount(of, weights=values), counts), len(counts)) | {"n": len(of)}
        for name, values in scores.items()
    }


def _ratio(sums: np.ndarray, counts: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda at: float(sums[at].sum() / counts[at].sum())
