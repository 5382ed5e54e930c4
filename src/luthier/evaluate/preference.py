"""How often the better answer gets the higher reward, and by how much: implicit rewards, or a reward model's scores.

Each row is ``{"chosen": ..., "rejected": ...}``, two rewards, or one of them alone; with a reference also ``kl`` and
``tokens``. ``kl`` is told in nats per token; equal rewards are half right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from luthier.evaluate.intervals import Metrics, interval

# The metrics, and whether higher is better.
METRICS = {
    "preference_accuracy": True, "reward_margin": True, "chosen_reward": True, "rejected_reward": False, "kl": False,
}  # fmt: skip
SCORED = {name: higher for name, higher in METRICS.items() if name != "kl"} | {"calibration_error": False}
NAMES = ("chosen", "rejected", "kl", "tokens")
BINS = 10
Output = dict[str, float]
Statistic = Callable[[np.ndarray], float]


def plain(outputs: Sequence[Output], names: Iterable[str] = METRICS) -> dict[str, float]:
    """Those of the metrics in ``names`` that the outputs have."""
    every, known = np.arange(len(outputs)), _statistics(outputs)
    return {name: known[name](every) for name in names if name in known}


def with_intervals(outputs: Sequence[Output], names: Iterable[str] = METRICS) -> Metrics:
    """The same with 95 % intervals over rows."""
    known = _statistics(outputs)
    return {name: interval(known[name], len(outputs)) for name in names if name in known}


def ranked(higher: np.ndarray, lower: np.ndarray) -> float:
    """How often one of ``higher`` is above one of ``lower``, equal ones half: the area under the ROC curve."""
    if not len(higher) or not len(lower):
        return float("nan")
    ordered = np.sort(lower)
    below = (np.searchsorted(ordered, higher, "left") + np.searchsorted(ordered, higher, "right")) / 2
    return float(below.mean() / len(lower))


def calibration_error(apart: np.ndarray) -> float:
    """How far the probabilities σ(|difference|) of the preferred answers are from how often they are right.

    The expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3), over ``BINS`` bins from 1/2 to 1.
    """
    confident = 1 / (1 + np.exp(-np.abs(apart)))
    right = np.sign(apart) / 2 + 0.5
    bins = np.minimum(((confident - 0.5) * 2 * BINS).astype(int), BINS - 1)
    sums = np.bincount(bins, weights=right - confident, minlength=BINS)
    return float(np.abs(sums).sum() / len(apart))


def _statistics(outputs: Sequence[Output]) -> dict[str, Statistic]:
    """What is told of rows with given numbers. Of single answers every liked one is held against every other."""
    told = {name: np.array([one.get(name, np.nan) for one in outputs], dtype=float) for name in NAMES}
    chosen, rejected = told["chosen"], told["rejected"]
    paired = not np.isnan(chosen + rejected).any()

    def accuracy(i: np.ndarray) -> float:
        if paired:
            return float((np.sign(chosen[i] - rejected[i]) / 2 + 0.5).mean())
        return ranked(*(side[i][~np.isnan(side[i])] for side in (chosen, rejected)))

    found: dict[str, Statistic] = {
        "preference_accuracy": accuracy,
        "reward_margin": lambda i: _mean(chosen[i]) - _mean(rejected[i]),
        "chosen_reward": lambda i: _mean(chosen[i]),
        "rejected_reward": lambda i: _mean(rejected[i]),
    }
    if paired:
        found["calibration_error"] = lambda i: calibration_error(chosen[i] - rejected[i])
    if not np.isnan(told["kl"]).any():
        found["kl"] = lambda i: float(told["kl"][i].sum() / max(1.0, told["tokens"][i].sum()))
    return found


def _mean(rewards: np.ndarray) -> float:
    """Of those that there are."""
    there = rewards[~np.isnan(rewards)]
    return float(there.mean()) if len(there) else float("nan")
