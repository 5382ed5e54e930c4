"""Which rows make which step, and how a step's rows are cut into micro-batches.

The order of rows is a pure function of (seed, epoch, data hash, mixture); micro-batches are one of the rows' lengths
and the token budget. Neither knows of processes, workers or where a run was resumed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from luthier.data.mixing import Mixture

Begun = tuple[Any, int]
"""What names the tokens that several rows begin with, and how many they are."""


class Order:
    """The rows of each optimizer step, counted from 0, over as many epochs as asked for.

    An epoch has each row once, or what the ``mixture`` of several sets draws for it.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, data_hash: str, mixture: Mixture | None = None):
        self.rows, self.batch_size, self.seed, self.data_hash = rows, batch_size, seed, data_hash
        self.mixture = mixture
        self.steps_per_epoch = math.ceil(rows / batch_size)
        self._permutation = lru_cache(maxsize=2)(self._draw)

    def _generator(self, name: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed}:{name}:{self.data_hash}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "big"))

    def _draw(self, epoch: int) -> np.ndarray:
        if self.mixture is not None:
            return self.mixture.epoch(epoch, self._generator)
        return self._generator(str(epoch)).permutation(self.rows)

    def step(self, step: int) -> list[int]:
        """Row indices of a step; the last step of an epoch may be smaller."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        return self._permutation(epoch)[start : start + self.batch_size].tolist()

    def counts(self, steps: int) -> np.ndarray:
        """How often each row is learned in the first ``steps`` steps."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        counts = np.zeros(self.rows, dtype=np.int64)
        for epoch in range(epochs + bool(rest)):
            drawn = self._permutation(epoch)
            np.add.at(counts, drawn if epoch < epochs else drawn[: rest * self.batch_size], 1)
        return counts


def micro_batches(
    lengths: Sequence[int], budget: int, *, padded: bool, at_least: int = 1, begun: Sequence[Begun | None] = ()
) -> list[list[int]]:
    """Cut rows (given by their lengths) into groups of at most ``budget`` tokens, pads counted where ``padded``.

    Rows of like length come together, so padding is small. At least ``at_least`` groups are made where there are
    enough rows, so that each process has one. A row longer than the budget is a group of its own. Rows that begin
    alike (``begun``: what names the beginning, and its tokens) stand together, and a group counts a beginning once.
    """
    begun = list(begun) or [None] * len(lengths)
    if at_least > 1:
        total = max(lengths) * len(lengths) if padded else sum(lengths) - _spared(begun)
        budget = min(budget, math.ceil(total / at_least))
    groups: list[list[int]] = []
    current: list[int] = []
    seen: set[Any] = set()
    used = 0
    for index in _ordered(lengths, begun):
        length, begins = lengths[index], begun[index]
        new = length - (begins[1] if begins is not None and begins[0] in seen else 0)
        cost = lengths[current[0]] * (len(current) + 1) if padded and current else used + new
        if current and cost > budget:
            groups.append(current)
            current, seen, used, new = [], set(), 0, length
        current.append(index)
        used += new
        seen |= {begins[0]} if begins is not None else set()
    if current:
        groups.append(current)
    while len(groups) < min(at_least, len(lengths)):
        _halve_fullest(groups, lengths)
    return groups


def _ordered(lengths: Sequence[int], begun: Sequence[Begun | None]) -> list[int]:
    """The longest first; rows that begin alike in one place, that of the longest among them."""
    leaders: dict[Any, tuple[int, int]] = {}
    for index, (length, begins) in enumerate(zip(lengths, begun, strict=True)):
        if begins is not None:
            leaders[begins[0]] = min((-length, index), leaders.get(begins[0], (0, 0)))

    def place(index: int) -> tuple[int, int, int, int]:
        begins, own = begun[index], (-lengths[index], index)
        return (*(own if begins is None else leaders[begins[0]]), *own)

    return sorted(range(len(lengths)), key=place)


def _spared(begun: Sequence[Begun | None]) -> int:
    """The tokens that rows which begin alike have in common, but for the first time."""
    told = [begins for begins in begun if begins is not None]
    return sum(tokens for _, tokens in told) - sum(dict(told).values())


def _halve_fullest(groups: list[list[int]], lengths: Sequence[int]) -> None:
    fullest = max((group for group in groups if len(group) > 1), key=lambda group: sum(lengths[i] for i in group))
    at, middle = groups.index(fullest), math.ceil(len(fullest) / 2)
    groups[at : at + 1] = [fullest[:middle], fullest[middle:]]
