"""Telephone keys as they sound, made on the spot: rows with a sound and the digits that are dialled in it.

Each key is two tones at once, one of its row and one of its column (ITU-T Recommendation Q.23), at 8,000 Hz. Row n is a
function of n alone: how many keys, which, how long and how loud each is, the pauses and the noise.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from luthier.types import Finding, Source

KEYPAD, ROWS = "tones:keypad", 400
RATE = 8000
LOW, HIGH = (697, 770, 852, 941), (1209, 1336, 1477)  # Hz
KEYS = ("123", "456", "789", "*0#")
TONES = {key: (LOW[row], HIGH[at]) for row, keys in enumerate(KEYS) for at, key in enumerate(keys)}
DIGITS = "0123456789"


def read_tones(path: str) -> tuple[list[tuple[Source, dict[str, Any]]], list[Finding]]:
    """Rows of ``tones:keypad``, or of ``tones:keypad:200`` so many."""
    found = re.fullmatch(rf"{KEYPAD}(?::(\d+))?", path)
    if not found:
        return [], [Finding("data.missing", path, "there are no such tones", f"those that are made are `{KEYPAD}`")]
    return [(Source(KEYPAD, n), dialled(n)) for n in range(1, int(found[1] or ROWS) + 1)], []


def dialled(n: int) -> dict[str, Any]:
    """Two to five keys, 60 to 140 ms each, between pauses of 30 to 120 ms, in noise 10 to 30 dB below them."""
    draw = np.random.default_rng(n)
    digits = "".join(draw.choice(list(DIGITS), draw.integers(2, 6)))
    parts = [np.zeros(_samples(draw, 0.03, 0.12))]
    for digit in digits:
        time = np.arange(_samples(draw, 0.06, 0.14)) / RATE
        phases = draw.uniform(0, 2 * np.pi, 2)
        tones = [np.sin(2 * np.pi * pitch * time + phase) for pitch, phase in zip(TONES[digit], phases, strict=True)]
        parts += [draw.uniform(0.05, 0.4) * (tones[0] + tones[1]), np.zeros(_samples(draw, 0.03, 0.12))]
    samples = np.concatenate(parts)
    level = np.sqrt(np.square(samples).mean()) * 10 ** (-draw.uniform(10, 30) / 20)
    samples = (samples + draw.normal(0, level, len(samples))).astype(np.float32)
    return {"audio": {"array": samples, "sampling_rate": RATE}, "text": digits}


def _samples(draw: np.random.Generator, least: float, most: float) -> int:
    return int(draw.uniform(least, most) * RATE)
