"""How a sound is changed before it is learned once more: a pure function of (seed, epoch, row).

Speed: Ko et al. 2015 (Interspeech: Audio augmentation for speech recognition). Masks: Park et al. 2019 (SpecAugment,
arXiv 1904.08779), section 2: a width uniform from 0 to the widest, at a uniform place; no warping of time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Spans = list[tuple[int, int]]


@dataclass(frozen=True)
class Change:
    """``speed``, and as shares of the whole [start, stop) the stretches of time and of pitch that are hidden."""

    speed: float
    times: tuple[tuple[float, float], ...]
    bands: tuple[tuple[float, float], ...]


def draw(
    seed: int, epoch: int, row: int, *, speeds: Sequence[float], seconds: float, time_masks: int, time_mask: float,
    band_masks: int, band_mask: float, at: int = 0,
) -> Change:  # fmt: skip
    """``seconds``: of the sound as it is; ``time_mask`` the widest in seconds, ``band_mask`` a share of all bands;
    ``at``: which sound of the row it is."""
    digest = hashlib.sha256(f"{seed}:sound:{epoch}:{row}{f':{at}' if at else ''}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    speed = float(speeds[int(generator.integers(len(speeds)))])
    widest = min(1.0, time_mask * speed / max(seconds, 1e-9))
    return Change(speed, _spans(generator, time_masks, widest), _spans(generator, band_masks, band_mask))


def _spans(generator: np.random.Generator, count: int, widest: float) -> tuple[tuple[float, float], ...]:
    found = []
    for _ in range(count):
        width = float(generator.uniform(0, widest))
        start = float(generator.uniform(0, 1 - width))
        found.append((start, start + width))
    return tuple(found)


def places(shares: Sequence[tuple[float, float]], whole: int) -> Spans:
    """Shares as [start, stop) of ``whole`` places; those of no width left out."""
    found = [(round(start * whole), round(stop * whole)) for start, stop in shares]
    return [(start, stop) for start, stop in found if stop > start]
