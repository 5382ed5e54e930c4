"""Rows that are made as training goes on: D depends on θ, and nothing else of the loop changes."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from luthier.types import Features


class Source(Protocol):
    """Asked at each step for what it learns from, where that is made by the model that trains.

    What it makes is a pure function of the weights, the rows that were drawn, the seed and the step. Rows that are
    learned for several steps are its ``state``, and so in every checkpoint.
    """

    repeats: int
    """Steps that learn from the same rows."""
    report: dict[str, tuple[float, float]]
    """(sum, count) of what is watched of the rows that were made last."""

    def rows(self, step: int, drawn: list[Features]) -> list[Features]:
        """The rows of a step: all that were made, or a part. Raises Refused where there is nothing to learn from."""

    def state(self, step: int) -> dict[str, Tensor]:
        """What must be kept after ``step`` steps: rows that are learned once more, and what the next ones depend on."""

    def restore(self, step: int, tensors: dict[str, Tensor]) -> None: ...
