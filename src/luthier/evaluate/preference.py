"""How often the better answer gets the higher reward, and by how much: implicit rewards, or a reward model's scores.

Each row is ``{"chosen": ..., "rejected": ...}``, two rewards, or one of them alone; with a reference also ``kl`` and
``tokens``. ``kl`` is told in nats per token; equal rewards are half right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from luthier.evaluate.intervals import Metrics, interval

# The metrics, and whether higher is better.
METRICS = {
    "preference_accuracy": True, "reward_margin": True, "chosen_reward": True, "rejected_reward": False, "kl": False,
}  # fmt: skip
NAMES = ("chosen", "rejected", "kl", "tokens")
Output = dict[str, float]
Statistic = Callable[[np.ndarray], float]


def plain(outputs: Sequence[Output]) -> dict[str, float]:
    every = np.arange(len(outputs))
    return {name: of(every) for name, of in _statistics(outputs).items()}


def with_intervals(outputs: Sequence[Output]) -> Metrics:
    """The same with 95 % intervals over rows."""
    return {name: interval(of, len(outputs)) for name, of in _statistics(outputs).items()}


def ranked(higher: np.ndarray, lower: np.ndarray) -> float:
    """How often one of ``higher`` is above one of ``lower``, equal ones half: the area under the ROC curve."""
    if not len(higher) or not len(lower):
        return float("nan")
    ordered = np.sort(lower)
    below = (np.searchsorted(ordered, higher, "left") + np.searchsorted(ordered, higher, "right")) / 2
    return float(below.mean() / len(lower))


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
    if not np.isnan(told["kl"]).any():
        found["kl"] = lambda i: float(told["kl"][i].sum() / max(1.0, told["tokens"][i].sum()))
    return found


def _mean(rewards: np.ndarray) -> float:
    """Of those that there are."""
    there = rewards[~np.isnan(rewards)]
    return float(there.mean()) if len(there) else float("nan")
