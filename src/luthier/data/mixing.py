"""Several data sets mixed by sampling: how many rows of each make an epoch, and which.

An epoch has as many rows as there are. With shares p_s, set s gives the fraction p_s of them; with a temperature T,
p_s ∝ n_s^(1/T) of its n_s rows (T = 1: as they are; a high T: all alike), as in multilingual pre-training (Devlin et
al. 2019; Conneau et al. 2020, arXiv 1911.02116, with α = 1/T). A set goes through its rows in a new order each time,
and on from epoch to epoch: none is repeated before all were used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Draw = Callable[[str], np.random.Generator]
"""A source of random numbers for a name; the same name gives the same numbers."""


@dataclass(frozen=True)
class Mixture:
    """``sets``: the row indices of each data set; ``quotas``: how many of them an epoch has."""

    sets: Sequence[np.ndarray]
    quotas: Sequence[int]

    def epoch(self, epoch: int, draw: Draw) -> np.ndarray:
        """The row indices of an epoch, in the order in which they are learned: a pure function of its arguments."""
        chosen = np.concatenate([self._taken(index, epoch, draw) for index in range(len(self.sets))])
        return chosen[draw(str(epoch)).permutation(len(chosen))]

    def _taken(self, index: int, epoch: int, draw: Draw) -> np.ndarray:
        rows, quota = self.sets[index], self.quotas[index]
        start, size = epoch * quota, len(self.sets[index])
        parts = []
        for round_ in range(start // size, math.ceil((start + quota) / size) if quota else 0):
            order = rows[draw(f"set {index}, round {round_}").permutation(size)]
            parts.append(order[max(0, start - round_ * size) : start + quota - round_ * size])
        return np.concatenate(parts) if parts else rows[:0]


def by_temperature(sizes: Sequence[int], temperature: float) -> list[float]:
    """Shares p_s ∝ n_s^(1/T)."""
    logs = [math.log(size) / temperature for size in sizes]
    powers = [math.exp(log - max(logs)) for log in logs]
    return [power / sum(powers) for power in powers]


def quotas(shares: Sequence[float], rows: int) -> list[int]:
    """Whole numbers of rows with the sum ``rows``, nearest to the shares (largest remainder), each at least 1."""
    exact = [share / sum(shares) * rows for share in shares]
    whole = [max(1, math.floor(one)) for one in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
    for i in by_remainder[: max(0, rows - sum(whole))]:
        whole[i] += 1
    while sum(whole) > rows and max(whole) > 1:
        whole[whole.index(max(whole))] -= 1
    return whole
