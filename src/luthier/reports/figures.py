"""How numbers are written for people: counts, shares, durations, and metrics to the decimals their interval bears."""

from __future__ import annotations

import math
from typing import Any

Metric = dict[str, Any]
"""``{"value": 0.87, "low": 0.82, "high": 0.91, "n": 240}``: a value, its 95 % interval, and over how many."""


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def count(value: float) -> str:
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """22713986 → "22.7 M"."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:g}"


def share(part: float, whole: float) -> str:
    """Per cent to two significant digits, without an exponent: 147456 of 22713986 → "0.65 %"."""
    percent = 100 * part / whole if whole else 0.0
    if percent >= 10 or percent == 0:
        return f"{percent:.0f} %"
    return f"{percent:.{1 - math.floor(math.log10(percent))}f} %"


def unbroken(text: str) -> str:
    """The same text, with no line break between a number and its per-cent sign."""
    return text.replace(" %", "\u00a0%")


def duration(seconds: float) -> str:
    """61.2 → "1:01"; 3725 → "1:02:05"; under ten seconds to a tenth."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def plain(value: Any) -> str:
    """A number of unknown kind: integers with commas, others to four significant digits; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return count(value)
    return f"{value:.4g}" if finite(value) else "not a number"


def decimals(*metrics: Metric | None) -> int:
    """Decimals that the narrowest interval bears, from 2 to 4, and enough to tell different values apart.

    A half-width of 0.045 bears two; one of 0.005 bears three. Without intervals: three.
    """
    known = [metric for metric in metrics if metric and finite(metric.get("value"))]
    halves = [(metric["high"] - metric["low"]) / 2 for metric in known if interval(metric)]
    halves = [half for half in halves if half > 0]
    places = min(4, max(2, -math.floor(math.log10(min(halves))))) if halves else 3
    values = {metric["value"] for metric in known}
    while places < 4 and len({round(value, places) for value in values}) < len(values):
        places += 1
    return places


def interval(metric: Metric | None) -> tuple[float, float] | None:
    if metric and finite(metric.get("low")) and finite(metric.get("high")):
        return metric["low"], metric["high"]
    return None


def span(metric: Metric, places: int) -> str:
    """ "0.82 to 0.91", or "" where there is no interval."""
    ends = interval(metric)
    return f"{ends[0]:.{places}f} to {ends[1]:.{places}f}" if ends else ""


def label(metric: str) -> str:
    return metric.replace("_", " ")
