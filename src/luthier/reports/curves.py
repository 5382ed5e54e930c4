"""The curves of a run: loss and the chosen metric by step, with the events that happened on the way."""

from __future__ import annotations

import string
from typing import Any

from luthier.reports.figures import count, label, plain
from luthier.reports.folder import Record, RunFolder
from luthier.reports.markup import Html, element, join, table
from luthier.reports.svg import Point, Series, line_chart, smoothed, swatch, thinned

SMOOTH_FROM = 30  # records of training from which a moving mean is drawn over them


def curves(folder: RunFolder) -> Html:
    """Two charts side by side, the events that their letters stand for, and the evaluations as a table."""
    events = lettered(folder.kind("event"))
    marks = [(event["step"], letter) for letter, event in events if letter]
    metric = (folder.result or {}).get("metric")
    figures = [figure("Loss", _losses(folder), marks)]
    if metric and metric != "loss":
        figures.append(figure(label(metric).capitalize(), _metric(folder, metric), marks))
    drawn = [figure for figure in figures if figure]
    charts = element("div", drawn, class_="pair") if drawn else None
    return join(charts, _events(events), _evaluations(folder.kind("eval")))


def points(records: list[Record], key: str) -> list[Point]:
    return [(record["step"], record[key]) for record in records if "step" in record and key in record]


def _losses(folder: RunFolder) -> list[Series]:
    """Held-out rows are judged by their labels; where a teacher is in the loss too, the labels' part is drawn."""
    records, held_out = folder.kind("train"), points(folder.kind("eval"), "loss")
    train = points(records, "cross_entropy") or points(records, "loss")
    smooth = len(train) >= SMOOTH_FROM
    series = [Series("training", thinned(train), "faint" if smooth else "quiet")]
    if smooth:
        series.append(Series("moving mean", thinned(smoothed(train)), "quiet"))
    return [*series, Series("held out", thinned(held_out), "main", dots=True)]


def _metric(folder: RunFolder, metric: str) -> list[Series]:
    return [Series("held out", thinned(points(folder.kind("eval"), metric)), "main", dots=True)]


def figure(title: str, series: list[Series], marks: list[tuple[float, str]]) -> Html:
    shown = [one for one in series if one.points]
    chart = line_chart(f"{title} by step", shown, marks)
    if not chart:
        return Html("")
    legend = [element("span", swatch(one), one.name, class_="key") for one in shown]
    return element("figure", element("figcaption", element("b", title), " by step ", legend), chart)


def lettered(events: list[Record]) -> list[tuple[str, Record]]:
    """Events with a, b, c... for those that have a step; after z they stay without a letter."""
    letters = iter(string.ascii_lowercase)
    return [(next(letters, "") if "step" in event else "", event) for event in events]


def _events(events: list[tuple[str, Record]]) -> Html | None:
    if not events:
        return None
    rows: list[list[Any]] = [
        [letter or "–", plain(event.get("step")), event.get("event", ""), event.get("text", "")]
        for letter, event in events
    ]
    return table(["Mark", "Step", "Event", "What happened"], rows, caption="Events", numeric={1})


def _evaluations(records: list[Record]) -> Html | None:
    if not records:
        return None
    keys = list(dict.fromkeys(key for record in records for key in record if key not in ("step", "kind")))
    head = ["Step", *(label(key) for key in keys)]
    rows: list[list[Any]] = [
        [count(record.get("step", 0)), *(plain(record.get(key)) for key in keys)] for record in records
    ]
    numbers = table(head, rows, caption="Evaluations", numeric=set(range(len(head))))
    return element("details", element("summary", f"All {len(records)} evaluations as numbers"), numbers)
