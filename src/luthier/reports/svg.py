"""Charts as SVG strings: curves, interval bars, horizontal bars. Pure functions; `report.css` gives the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from luthier.reports.figures import finite
from luthier.reports.markup import Html, element, join

Point = tuple[float, float | None]

WIDTH, HEIGHT = 376, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 16, 30
LETTER = 6.2  # about the width of a letter of a chart's text


@dataclass(frozen=True)
class Series:
    """One curve. A point whose y is None breaks the line. ``style`` is a class of `report.css`."""

    name: str
    points: Sequence[Point]
    style: str = "quiet"
    dots: bool = False


@dataclass(frozen=True)
class Interval:
    """One row of interval bars: a value and the ends of its interval (None: only the value is drawn).

    ``marks`` are values that it is the mean of: a short stroke each.
    """

    group: str
    label: str
    value: float
    ends: tuple[float, float] | None
    style: str
    marks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scale:
    """Linear: domain (low, high) → pixels (start, end)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def nice_ticks(low: float, high: float, about: int = 5, whole: bool = False) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, from at or below ``low`` to at or above ``high``."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):  # equal but for rounding
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= raw * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def tick_text(tick: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    return f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}".replace("-", "−")


def line_chart(title: str, series: Sequence[Series], marks: Sequence[tuple[float, str]] = ()) -> Html:
    """Curves over steps. ``marks`` are (step, letter): a dotted line each, with its letter on top."""
    points = [(x, y) for one in series for x, y in one.points if y is not None]
    if not points:
        return Html("")
    rows = nice_ticks(min(y for _, y in points), max(y for _, y in points))
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    if first == last:
        first, last = first - 1, last + 1
    x = Scale(first, last, LEFT, WIDTH - RIGHT)
    y = Scale(rows[0], rows[-1], HEIGHT - BOTTOM, TOP)
    columns = nice_ticks(first, last, whole=True)
    parts = [_row(tick, y(tick), tick_text(tick, rows)) for tick in rows]
    parts += [_column(x(tick), tick_text(tick, columns), HEIGHT - 12) for tick in columns if first <= tick <= last]
    parts += [_mark(x(step), letter) for step, letter in marks if first <= step <= last]
    parts += [_curve(one, x, y) for one in series]
    return picture(title, HEIGHT, parts)


def _row(tick: float, y: float, text: str) -> Html:
    line = element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=px(y), y2=px(y), class_="grid")
    return join(line, element("text", text, x=LEFT - 8, y=px(y + 4), text_anchor="end"))


def _column(x: float, text: str, y: float) -> Html:
    return element("text", text, x=px(x), y=px(y), text_anchor="middle")


def _mark(x: float, letter: str) -> Html:
    line = element("line", x1=px(x), x2=px(x), y1=TOP, y2=HEIGHT - BOTTOM, class_="mark")
    return join(line, element("text", letter, x=px(x), y=TOP - 5, text_anchor="middle", class_="letter"))


def _curve(one: Series, x: Scale, y: Scale) -> Html:
    placed = [(x(step), y(value)) if value is not None else None for step, value in one.points]
    line = element("path", d=path(placed), class_=f"curve {one.style}")
    dots = [element("circle", cx=px(p[0]), cy=px(p[1]), r=2.5, class_=f"dot {one.style}") for p in placed if p]
    return join(line, dots if one.dots else None)


def path(placed: Sequence[tuple[float, float] | None]) -> str:
    """SVG path data; None lifts the pen."""
    words, pen = [], "M"
    for point in placed:
        if point is None:
            pen = "M"
            continue
        words.append(f"{pen}{px(point[0])} {px(point[1])}")
        pen = "L"
    return "".join(words)


def thinned(points: Sequence[Point], limit: int = 400) -> list[Point]:
    """At most about ``limit`` points: the lowest and highest of each stretch, so that no spike is lost."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(len(points) / (limit / 2))
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        known = [(y, x) for x, y in stretch if y is not None]
        if len(known) < len(stretch):
            kept.append((stretch[0][0], None))
        if known:
            kept += sorted({(x, y) for y, x in (min(known), max(known))})
    return kept


def smoothed(points: Sequence[Point], keep: float = 0.8) -> list[Point]:
    """Exponential moving mean, corrected for its start; steps without a number are passed over."""
    mean, weight = 0.0, 0.0
    out: list[Point] = []
    for step, value in points:
        if value is None:
            continue
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out.append((step, mean / weight))
    return out


def interval_bars(title: str, rows: Sequence[Interval], rule: float | None = None) -> Html:
    """A dot for each value and a line over its interval, on one linear axis; a heading where the group changes.

    ``rule`` is a value with a line of its own, such as zero for differences.
    """
    known = [value for row in rows for value in (row.value, *(row.ends or ()), *row.marks) if finite(value)]
    values = known if rule is None else [*known, rule]
    ticks = nice_ticks(min(values), max(values))
    x = Scale(ticks[0], ticks[-1], max(64, 12 + LETTER * max(len(row.label) for row in rows)), WIDTH - 14)
    parts, top, group = [], 0, ""
    for row in rows:
        if row.group != group:
            group, top = row.group, top + 30
            parts.append(element("text", group, x=0, y=top - 8, class_="group"))
        parts.append(_bar(row, x, top + 8))
        top += 22
    grid = [element("line", x1=px(x(t)), x2=px(x(t)), y1=18, y2=top + 2, class_="grid") for t in ticks]
    if rule is not None:
        grid.append(element("line", x1=px(x(rule)), x2=px(x(rule)), y1=0, y2=top + 2, class_="curve quiet"))
    texts = [_column(x(tick), tick_text(tick, ticks), top + 18) for tick in ticks]
    return picture(title, top + 24, [*grid, *texts, *parts])


def _bar(row: Interval, x: Scale, y: float) -> Html:
    text = element("text", row.label, x=0, y=y + 4)
    ticks = [element("line", x1=px(x(m)), x2=px(x(m)), y1=y - 6, y2=y + 6, class_="tick") for m in row.marks]
    dot = element("circle", cx=px(x(row.value)), cy=px(y), r=4.5, class_=f"dot {row.style}")
    if row.ends is None:
        return join(text, ticks, dot)
    low, high = (px(x(end)) for end in row.ends)
    return join(text, ticks, element("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker {row.style}"), dot)


def bar(title: str, share: float, style: str = "main") -> Html:
    """A horizontal bar over the whole width of its place, filled to ``share`` (0 to 1)."""
    width = f"{100 * min(1.0, max(0.0, share)):.4g}%"
    track = element("rect", x=0, y=0, width="100%", height=8, class_="track")
    fill = element("rect", x=0, y=0, width=width, height=8, class_=f"fill {style}")
    name = element("title", title)
    return element("svg", name, track, fill, role="img", aria_label=title, class_="bar", width="100%", height=8)


def swatch(one: Series) -> Html:
    """The small piece of line that stands in a legend."""
    line = element("line", x1=0, x2=18, y1=5, y2=5, class_=f"curve {one.style}")
    dot = element("circle", cx=9, cy=5, r=2.5, class_=f"dot {one.style}") if one.dots else None
    return element("svg", line, dot, width=18, height=10, aria_hidden="true", class_="swatch")


def picture(title: str, height: float, parts: Sequence[Html]) -> Html:
    head, box = element("title", title), f"0 0 {WIDTH} {px(height)}"
    return element("svg", head, *parts, viewbox=box, role="img", aria_label=title, class_="chart")


def px(value: float) -> str:
    """Pixels to a tenth, without a trailing ".0"."""
    return f"{value:.1f}".removesuffix(".0")
