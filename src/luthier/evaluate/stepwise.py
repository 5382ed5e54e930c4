"""How well a process reward model judges steps, and finds the first that is wrong.

Each row is ``{"steps": probabilities, "labels": from 0 to 1, NaN where nobody said}``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from luthier.evaluate.intervals import Metrics, interval
from luthier.evaluate.preference import ranked

METRICS = {"step_accuracy": True, "first_error": True, "step_auc": True}
HALF = 0.5
Output = dict[str, Any]


def first_wrong(values: Sequence[float]) -> int | None:
    """The first step below one half; None where all are right, or nobody said that one is wrong."""
    return next((at for at, value in enumerate(values) if value < HALF), None)


def plain(outputs: Sequence[Output]) -> dict[str, float]:
    every = np.arange(len(outputs))
    return {name: found(every) for name, found in _statistics(outputs).items()} if len(outputs) else {}


def with_intervals(outputs: Sequence[Output]) -> Metrics:
    """The same with 95 % intervals over rows."""
    return {name: interval(found, len(outputs)) for name, found in _statistics(outputs).items()}


def _statistics(outputs: Sequence[Output]) -> dict[str, Callable[[np.ndarray], float]]:
    """Over judged steps: how many are on the right side of one half, and how often a right one is above a wrong one;
    and of the rows how many have their first wrong step found, or are found to have none."""
    judged = [
        [(step, label) for step, label in zip(one["steps"], one["labels"], strict=True) if not math.isnan(label)]
        for one in outputs
    ]
    pairs = [np.array(some, dtype=float).reshape(-1, 2) for some in judged]
    right = np.array([int(((one[:, 0] > HALF) == (one[:, 1] >= HALF)).sum()) for one in pairs])
    counts = np.array([len(one) for one in pairs])
    sides = [[[pair[side] for pair in some] for side in (0, 1)] for some in judged]
    found = np.array([first_wrong(steps) == first_wrong(labels) for steps, labels in sides], dtype=float)

    def auc(i: np.ndarray) -> float:
        some = np.concatenate([pairs[at] for at in i])
        return ranked(some[some[:, 1] >= HALF, 0], some[some[:, 1] < HALF, 0])

    return {
        "step_accuracy": lambda i: float(right[i].sum() / max(1, counts[i].sum())),
        "first_error": lambda i: float(found[i].mean()),
        "step_auc": auc,
    }
