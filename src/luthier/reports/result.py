"""What came of a run: the facts in a band, every metric before and after, and what was trained."""

from __future__ import annotations

from typing import Any

from luthier.reports.figures import (
    Metric,
    compact,
    count,
    decimals,
    duration,
    interval,
    label,
    plain,
    share,
    span,
    unbroken,
)
from luthier.reports.folder import Record, RunFolder
from luthier.reports.markup import Html, element, join, table
from luthier.reports.svg import Interval, bar, interval_bars


def facts(folder: RunFolder) -> Html:
    """A band of the numbers that a reader asks for first."""
    run, result = folder.run, folder.result or {}
    machine, model = run.get("machine") or {}, run.get("model") or {}
    steps = count(result["steps"]) if result.get("steps") else None
    epochs = f"{result['epochs']:g} epochs" if result.get("epochs") else ""
    best = f"best at {count(result['best_step'])}" if result.get("best_step") else ""
    trainable, total = result.get("trainable"), result.get("parameters") or model.get("parameters")
    memory, size = result.get("peak_memory_mb"), result.get("size_mb")
    shown = [
        ("Model", model.get("name"), f"{compact(total)} numbers" if total else None),
        ("Method", run.get("method"), f"for {run['task']}" if run.get("task") else None),
        ("Trained", share(trainable, total) if trainable is not None and total else None, _of(trainable, total)),
        ("Steps", steps, ", ".join(filter(None, (epochs, best)))),
        ("Time", duration(result["seconds"]) if result.get("seconds") else None, machine.get("device")),
        ("Peak memory", f"{count(memory)} MB" if memory else None, machine.get("precision")),
        ("Saved", f"{size:g} MB" if size is not None else None, result.get("final")),
    ]
    items = [
        element("div", element("dt", name), element("dd", value, element("small", aside) if aside else None))
        for name, value, aside in shown
        if value
    ]
    return element("dl", items, class_="facts")


def _of(part: float | None, whole: float | None) -> str | None:
    return f"{compact(part)} of {compact(whole)}" if part is not None and whole else None


def before_after(folder: RunFolder) -> Html:
    """Interval bars of the chosen metric and of those that share its axis; all metrics in a table."""
    result = folder.result or {}
    before, after = result.get("before") or {}, result.get("after") or {}
    if not after:
        return element("p", "Nothing was evaluated after training.", class_="none")
    names = _chosen_first(after, result["metric"])
    chart = _chart([name for name in names if _same_axis(name, result["metric"], after)], before, after)
    rows = [_row(name, before.get(name), after[name]) for name in names]
    head = ["Metric", "Before", "After", "Change", "95 % interval after", "Over"]
    numbers = table(head, rows, caption="Metrics before and after", numeric={1, 2, 3, 4, 5})
    return join(chart, numbers)


def _chosen_first(metrics: Record, chosen: str) -> list[str]:
    return sorted(metrics, key=lambda name: name != chosen)


def _same_axis(name: str, chosen: str, metrics: Record) -> bool:
    return name == chosen or (_is_share(name, metrics[name]) and _is_share(chosen, metrics.get(chosen)))


def _is_share(name: str, metric: Metric | None) -> bool:
    """Accuracy and its kin: between 0 and 1, and not a loss that happens to be small."""
    return bool(metric and metric.get("value") is not None and 0 <= metric["value"] <= 1 and "loss" not in name)


def _chart(names: list[str], before: Record, after: Record) -> Html | None:
    rows = []
    for name in names:
        for when, metrics in (("before", before), ("after", after)):
            metric = metrics.get(name)
            if metric and metric.get("value") is not None:
                rows.append(Interval(label(name), when, metric["value"], interval(metric), when))
    if not rows:
        return None
    caption = element("figcaption", "Dots are the values, lines their 95 % intervals; hollow before, filled after.")
    return element("figure", interval_bars("Before and after, with 95 % intervals", rows), caption, class_="intervals")


def _row(name: str, before: Metric | None, after: Metric) -> list[Any]:
    places = decimals(before, after)
    first, last = (_value(metric, places) for metric in (before, after))
    known = before and before.get("value") is not None and after.get("value") is not None
    change = f"{after['value'] - before['value']:+.{places}f}".replace("-", "−") if known and before else "–"
    return [label(name), first, element("b", last), change, span(after, places) or "–", plain(after.get("n"))]


def _value(metric: Metric | None, places: int) -> str:
    return f"{metric['value']:.{places}f}" if metric and metric.get("value") is not None else "–"


def trained(folder: RunFolder) -> Html:
    """The share of the numbers that trained, and which they are by role."""
    result = folder.result or {}
    part, whole = result.get("trainable"), result.get("parameters")
    if part is None or not whole:
        return Html("")
    words = unbroken(f"{count(part)} of {count(whole)} numbers trained: {share(part, whole)}")
    line = element("div", bar(words, part / whole), element("p", words, "."), class_="share")
    roles = result.get("trained") or []
    rows: list[list[Any]] = [
        [
            role["role"],
            count(role["tensors"]),
            count(role["numbers"]),
            share(role["numbers"], part),
            _role_bar(role, part),
        ]
        for role in roles
    ]
    head = ["Role", "Tensors", "Numbers", "Share", "Of what trained"]
    table_of_all = table(head, rows, caption="What was trained", numeric={1, 2, 3}) if rows else None
    return join(line, _by_role(result.get("roles") or []), table_of_all)


def _by_role(roles: list[Record]) -> Html | None:
    """Each part of the model, with its method and rate; what is frozen too."""
    rows = [
        [role["role"], role["method"], f"{role['learning_rate']:g}" if role["learning_rate"] else "–",
         count(role["trained"]), count(role["numbers"])]
        for role in roles
    ]  # fmt: skip
    head = ["Part", "Method", "Learning rate", "Numbers trained", "Numbers it came with"]
    return table(head, rows, caption="Methods by role", numeric={2, 3, 4}) if rows else None


def _role_bar(role: Record, part: float) -> Html:
    return bar(f"{role['role']}: {share(role['numbers'], part)} of what trained", role["numbers"] / part if part else 0)
