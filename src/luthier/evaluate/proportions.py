"""The 95 % interval of a proportion by Wilson's score (Wilson 1927): it holds near 0 and 1 and for few trials too.

(p + z²/2n ± z √(p(1 - p)/n + z²/4n²)) / (1 + z²/n)
"""

from __future__ import annotations

import math

Z = 1.959963984540054


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """(low, high)."""
    p, square = successes / trials, Z * Z / trials
    middle, half = p + square / 2, Z * math.sqrt(p * (1 - p) / trials + square / (4 * trials))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))
