"""How the numbers of actions and states are scaled, kept with the model: without it what a model says means nothing.

    scaled = 2 (value - low) / (high - low) - 1

with low and high the quantiles 0.01 and 0.99 of the training rows (Kim et al. 2024, OpenVLA, arXiv 2406.09246, section
3.2), so that a single outlier doesn't flatten all else. A number that never changes is scaled by 1. Nothing is cut.

Axes: N steps, A numbers of an action or a state.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luthier.types import Finding, Refused

FILE = "actions.json"
"""In a final model's folder."""

QUANTILES = (0.01, 0.99)
# How far from the middle of its scale a typical value of other rows may lie, and by how much they may spread less:
# degrees for radians are a factor of 57, millimetres for metres one of 1,000.
MOST_TYPICAL, LEAST_SPREAD, FEWEST = 8.0, 0.02, 10


@dataclass(frozen=True)
class Scale:
    """Of each number: its range by quantiles, the least and most, and the mean."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    least: tuple[float, ...]
    most: tuple[float, ...]
    mean: tuple[float, ...]

    @classmethod
    def of(cls, values_NA: Sequence[Sequence[float]]) -> Scale:
        array = np.asarray(values_NA, dtype=np.float64)
        low, high = np.quantile(array, QUANTILES, axis=0)
        rows = (low, high, array.min(0), array.max(0), array.mean(0))
        return cls(*(tuple(float(value) for value in row) for row in rows))

    def __len__(self) -> int:
        return len(self.low)

    @property
    def _middle_and_half(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.asarray(self.low), np.asarray(self.high)
        half = (high - low) / 2
        return (low + high) / 2, np.where(half > 1e-9, half, 1.0)

    def scaled(self, values: Sequence[Any] | np.ndarray) -> np.ndarray:
        """(..., A) as the model sees them, mostly in [-1, 1]."""
        middle, half = self._middle_and_half
        return (np.asarray(values, dtype=np.float64) - middle) / half

    def unscaled(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """(..., A) in their own units again."""
        middle, half = self._middle_and_half
        return np.asarray(values, dtype=np.float64) * half + middle

    def foreign(self, values_NA: Sequence[Sequence[float]]) -> list[int]:
        """The numbers that can't be of the same kind: typically far outside; or all that move here, and there don't."""
        scaled_NA = self.scaled(values_NA)
        found_A = np.median(np.abs(scaled_NA), axis=0) > MOST_TYPICAL
        moves_A = np.asarray(self.high) - np.asarray(self.low) > 1e-9
        spread_A = np.ptp(scaled_NA, axis=0)
        if len(scaled_NA) >= FEWEST and moves_A.any() and (spread_A[moves_A] < LEAST_SPREAD).all():
            found_A |= moves_A
        return [int(at) for at in np.flatnonzero(found_A)]

    def as_dict(self) -> dict[str, list[float]]:
        return {name: list(values) for name, values in asdict(self).items()}


@dataclass
class Known:
    """What a model of actions must know to be of use: how they are predicted, and what its outputs stand for."""

    predicts: str
    labels: list[str] = field(default_factory=list)
    units: str | None = None
    action: Scale | None = None
    state: Scale | None = None

    def save(self, folder: Path) -> None:
        told = {"predicts": self.predicts, "labels": self.labels, "units": self.units}
        scales = {name: scale.as_dict() if scale else None for name, scale in
                  (("action", self.action), ("state", self.state))}  # fmt: skip
        (folder / FILE).write_text(json.dumps(told | scales, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def bins_of(scaled: Sequence[float] | np.ndarray, bins: int) -> list[int]:
    """The bin of each number, of equal parts of [-1, 1]; what is outside is in the first or last."""
    return np.clip(np.floor((np.asarray(scaled) + 1) / 2 * bins), 0, bins - 1).astype(int).tolist()


def middle_of(found: Any, bins: int) -> np.ndarray:
    """The middle of each bin."""
    return (np.asarray(found) + 0.5) / bins * 2 - 1


def read_known(folder: Path) -> Known:
    """Raises Refused where ``actions.json`` is missing or damaged."""
    path, mend = folder / FILE, "restore it, or train again: without it what the model says means nothing"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        scales = {name: _scale(told[name]) for name in ("action", "state")}
        return Known(str(told["predicts"]), list(told["labels"]), told["units"], **scales)
    except FileNotFoundError:
        what = "what its actions mean, and how they are scaled, is not beside the model"
        raise Refused(Finding("act.no-statistics", str(path), what, mend)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(Finding("act.no-statistics", str(path), f"this file is damaged ({error!r})", mend)) from None


def _scale(told: dict[str, list[float]] | None) -> Scale | None:
    if told is None:
        return None
    scale = Scale(**{name: tuple(float(value) for value in values) for name, values in told.items()})
    if not scale.low or len({len(values) for values in told.values()}) != 1:
        raise ValueError("its parts are of several lengths")
    return scale
