"""A score against a cost: dots with their names, the cost on a logarithmic axis. A cost of zero stands at its foot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luthier.reports.figures import compact
from luthier.reports.markup import Html, element, join
from luthier.reports.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    nice_ticks,
    picture,
    px,
    tick_text,
)

LINE = 12  # pixels between the names of neighbours
AWAY = 8


@dataclass(frozen=True)
class Dot:
    """``ends`` are of the score's interval; ``style`` is a class of `report.css`, ``chosen`` sets the name bold."""

    name: str
    cost: float
    score: float
    ends: tuple[float, float]
    style: str
    chosen: bool = False


def scatter(title: str, dots: Sequence[Dot], written: Callable[[float], str] = compact) -> Html:
    """``written`` puts a cost in words for the axis."""
    rows = nice_ticks(min(dot.ends[0] for dot in dots), max(dot.ends[1] for dot in dots))
    y = Scale(rows[0], rows[-1], HEIGHT - BOTTOM, TOP)
    costs = [dot.cost for dot in dots]
    marks = stops(costs)
    first, last = math.log10(marks[0]), math.log10(marks[-1])
    foot = first - (last - first) / 6  # where a cost of zero stands
    x = Scale(foot if min(costs) <= 0 else first, last, LEFT + 6, WIDTH - RIGHT - 6)

    def at(cost: float) -> float:
        return x(math.log10(cost) if cost > 0 else foot)

    parts = [_row(y(tick), tick_text(tick, rows)) for tick in rows]
    columns = [0.0] * (min(costs) <= 0) + marks[:: math.ceil(len(marks) / 6)]
    parts += [element("text", written(c), x=px(at(c)), y=HEIGHT - 12, text_anchor="middle") for c in columns]
    placed = [(at(dot.cost), y(dot.score)) for dot in dots]
    parts += [_whisker(px(at(dot.cost)), y, dot) for dot in dots]
    for dot, (left, top), (text_left, text_top, anchor) in zip(dots, placed, names(dots, placed), strict=True):
        parts.append(element("circle", cx=px(left), cy=px(top), r=4.5, class_=f"dot {dot.style}"))
        kind = "name chosen" if dot.chosen else "name"
        parts.append(element("text", dot.name, x=px(text_left), y=px(text_top), text_anchor=anchor, class_=kind))
    return picture(title, HEIGHT, parts)


def stops(costs: Sequence[float]) -> list[float]:
    """1 and 3 times powers of ten, from at or below the lowest cost above zero to at or above the highest."""
    known = [cost for cost in costs if cost > 0] or [1.0]
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known))) + 1
    every = [round(size * 10.0**power, 12) for power in range(low, high + 1) for size in (1, 3)]
    first = max(stop for stop in every if stop <= min(known))
    last = min(stop for stop in every if stop >= max(known) and stop > first)
    return [stop for stop in every if first <= stop <= last]


def names(dots: Sequence[Dot], placed: Sequence[tuple[float, float]]) -> list[tuple[float, float, str]]:
    """Where each name goes (x, y, anchor): beside its dot, on the inner side, moved until it meets no other name."""
    boxes: list[tuple[float, float, float]] = []
    found: list[tuple[float, float, str]] = []
    for dot, (left, top) in zip(dots, placed, strict=True):
        width = LETTER * len(dot.name)
        inner = left + AWAY + width < WIDTH - 2
        start = left + AWAY if inner else left - AWAY - width
        moves = sorted((LINE * step for step in range(-6, 7)), key=abs)
        free = [move for move in moves if _free(start, start + width, top + 4 + move, boxes)]
        text_top = min(max(top + 4 + (free[0] if free else 0), 10.0), HEIGHT - BOTTOM + 2.0)
        boxes.append((start, start + width, text_top))
        found.append((left + AWAY, text_top, "start") if inner else (left - AWAY, text_top, "end"))
    return found


def _free(start: float, end: float, top: float, boxes: Sequence[tuple[float, float, float]]) -> bool:
    if not 10 <= top <= HEIGHT - BOTTOM + 2:
        return False
    return all(end < other[0] or start > other[1] or abs(top - other[2]) >= LINE for other in boxes)


def _row(y: float, text: str) -> Html:
    line = element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=px(y), y2=px(y), class_="grid")
    return join(line, element("text", text, x=LEFT - 8, y=px(y + 4), text_anchor="end"))


def _whisker(x: str, y: Scale, dot: Dot) -> Html:
    low, high = (px(y(end)) for end in dot.ends)
    return element("line", x1=x, x2=x, y1=low, y2=high, class_=f"whisker {dot.style}")
