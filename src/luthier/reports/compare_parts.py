"""The parts of compare.html: charts and tables of what each method gave and what it costs."""

from __future__ import annotations

from typing import Any

from luthier.reports.figures import compact, count, decimals, duration, label, plain, span
from luthier.reports.markup import Html, element, join, table
from luthier.reports.recommend import told_apart
from luthier.reports.scatter import Dot, scatter
from luthier.reports.svg import Interval, interval_bars

Record = dict[str, Any]


def _scored(result: Record) -> list[Record]:
    return [method for method in result["methods"] if "score" in method]


def places_of(methods: list[Record]) -> int:
    """One decimal more than an interval bears, at least three: the methods are to be told apart."""
    return max(3, decimals(*(method["score"] for method in methods)))


def _style(method: Record) -> str:
    """Filled where it can't be told from the best, hollow where it is worse."""
    return "before" if told_apart(method) else "after"


def scores(result: Record) -> Html:
    known = _scored(result)
    if not known:
        return Html("")
    rows = [_interval(method) for method in known]
    title = f"{label(result['metric'])} of each method, with 95 % intervals over the rows"
    better = "higher" if result["higher_is_better"] else "lower"
    text = f"{label(result['metric']).capitalize()}, {better} is better. Lines are 95 % intervals over the rows"
    seeds = ", strokes are the seeds, dots their mean" if len(result["seeds"]) > 1 else ""
    text += f"{seeds}. Filled: can't be told from the best; hollow: worse."
    return element("figure", interval_bars(title, rows), element("figcaption", text), class_="intervals")


def _interval(method: Record) -> Interval:
    score = method["score"]
    marks = tuple(score["seeds"]) if len(score["seeds"]) > 1 else ()
    return Interval("", method["name"], score["value"], (score["low"], score["high"]), _style(method), marks)


def methods(result: Record) -> Html:
    known = _scored(result)
    if not known:
        return Html("")
    places = places_of(known)
    rows = [_row(method, places, result) for method in known]
    head = [
        "Method",
        "Score",
        "95 % interval",
        "Seeds",
        "Rate",
        "Trained",
        "Time",
        "Memory",
        "Saved",
        "Inference",
    ]
    return table(head, rows, caption="Methods, best first", numeric=set(range(1, 10)))


def _row(method: Record, places: int, result: Record) -> list[Any]:
    score, done = method["score"], sum(cell["status"] == "finished" for cell in method["cells"])
    spread = f"{score['min']:.{places}f} to {score['max']:.{places}f}" if done > 1 else "one"
    if done < len(result["seeds"]):
        spread = f"{spread} ({done} of {len(result['seeds'])})"
    rate = f"{method['learning_rate']:g}" if method["learning_rate"] else "–"
    name = element("b", method["name"]) if method["name"] == result["recommended"] else method["name"]
    value = f"{score['value']:.{places}f}"
    return [
        name,
        element("b", value) if method["name"] == result["best"] else value,
        span(score, places),
        spread,
        join(rate, element("small", method["rate_from"]) if _is_news(method) else None),
        compact(method["trainable"]),
        duration(method["seconds"]),
        f"{count(method['peak_memory_mb'])} MB",
        f"{method['weights_mb']:.3g} MB",
        f"× {method['inference']:.2f}",
    ]


def _is_news(method: Record) -> bool:
    return bool(method["learning_rate"]) and method["rate_from"] != "default"


def missing(result: Record) -> Html:
    rows: list[list[Any]] = [
        [method["name"], method["status"], method["reason"]] for method in result["methods"] if "score" not in method
    ]
    return table(["Method", "What happened", "Why"], rows, caption="Methods without a score") if rows else Html("")


def costs(result: Record) -> Html:
    """Small multiples: the same scores over the numbers trained, and over the time."""
    known = _scored(result)
    if len(known) < 2:
        return Html("")
    charts = []
    for key, title, written in (
        ("trainable", "Numbers trained by steps", compact),
        ("seconds", "Time to train", _seconds),
    ):
        dots = [_dot(method, method[key], result) for method in known]
        name = f"{label(result['metric'])} against: {title.lower()}"
        charts.append(element("figure", element("figcaption", element("b", title)), scatter(name, dots, written)))
    return element("div", charts, class_="pair")


def _seconds(value: float) -> str:
    return f"{value:g} s" if value < 60 else duration(value)


def _dot(method: Record, cost: float, result: Record) -> Dot:
    score = method["score"]
    chosen = method["name"] == result["recommended"]
    return Dot(method["name"], cost, score["value"], (score["low"], score["high"]), _style(method), chosen)


def differences(result: Record) -> Html:
    known = [method for method in _scored(result) if "difference" in method]
    if not known:
        return Html("")
    places = max(3, decimals(*(method["difference"] for method in known)))
    rows: list[list[Any]] = [
        [
            method["name"],
            _signed(method["difference"]["value"], places),
            f"{_signed(method['difference']['low'], places)} to {_signed(method['difference']['high'], places)}",
            f"{method['difference']['p']:.3f}",
            "worse" if told_apart(method) else "can't be told apart",
        ]
        for method in known
    ]
    bars = [
        Interval("", m["name"], m["difference"]["value"], (m["difference"]["low"], m["difference"]["high"]), _style(m))
        for m in known
    ]
    text = (
        f"Each method's {label(result['metric'])} less that of {result['best']}, on the same rows, with 95 % intervals."
    )
    chart = interval_bars(f"Differences from {result['best']}", bars, rule=0.0)
    figure = element("figure", chart, element("figcaption", text), class_="intervals")
    head = ["Method", "Difference", "95 % interval", "p", f"Against {result['best']}"]
    return join(figure, table(head, rows, caption="Differences from the best", numeric={1, 2, 3}))


def _signed(value: float, places: int) -> str:
    return f"{value:+.{places}f}".replace("-", "−")


def forgetting(result: Record) -> Html:
    asked, known = result["retention"], [method for method in _scored(result) if "retention" in method]
    if not asked or not known:
        return Html("")
    rows: list[list[Any]] = []
    for method in known:
        kept = method["retention"]
        change = kept["after"] - kept["before"]
        spread = f"{kept['min']:.4f} to {kept['max']:.4f}"
        rows.append([method["name"], f"{kept['before']:.4f}", f"{kept['after']:.4f}", _signed(change, 4), spread])
    head = ["Method", "Before", "After", "Change", "Seeds"]
    what = (
        "Accuracy of a logistic regression on the trunk's vectors of these rows, five-fold cross-validated: lower "
        "after training means that the trunk no longer tells their labels as well."
        if asked["probe"]
        else "Language-model loss on these rows, in nats per token: higher after training means that the model forgot."
    )
    note = element("p", element("code", asked["file"]), f", {count(asked['rows'])} rows. ", what)
    return join(note, table(head, rows, caption="Forgetting", numeric={1, 2, 3, 4}))


def search(result: Record) -> Html:
    found = [method for method in result["methods"] if method.get("search")]
    rows: list[list[Any]] = []
    for method in found:
        for trial in method["search"] if method["search"][0]["learning_rate"] else []:  # features have no rate
            value = f"{trial['value']:.4f}" if trial["value"] is not None else trial["status"]
            rate = f"{trial['learning_rate']:g}" if trial["learning_rate"] else "–"
            rows.append([method["name"], rate, element("b", value) if trial["chosen"] else value])
    if not rows:
        return Html("")
    share = f"{100 * result['search']['share']:.0f} % of the steps"
    text = f"Each trial trains for {share} and is judged on the selection rows. The rate in bold was taken."
    head = ["Method", "Learning rate", label(result["metric"]).capitalize()]
    return join(element("p", text), table(head, rows, caption="Trials of learning rates", numeric={1, 2}))


def how(result: Record) -> Html:
    rows = result["rows"]
    chosen = (
        f"Checkpoints (and searched learning rates) are chosen on {count(rows['selection'])} rows split off train; the "
        f"{count(rows['evaluation'])} rows that are reported choose nothing."
        if rows["selection"]
        else f"Nothing is chosen: the last weights are reported, on {count(rows['evaluation'])} rows kept out of it."
    )
    told = [
        f"The rows and the split (seed {result['split_seed']}) are the same for every method and seed of training.",
        chosen,
        "Score: the mean over the seeds; its interval is a bootstrap over the rows (1,000 resamples).",
        "Differences: a paired bootstrap, the same resamples for every run; seeds are resampled too. p is two-sided "
        "and not corrected for the number of methods. The best of several is flattered a little by being chosen.",
        "Learning rate: each method's own default, unless it was given or searched. Other settings are the same.",
        "Time: training alone, the slowest seed's. Memory: the most that a run's own process held, Python and "
        "libraries included. Saved: the weights that the method writes.",
        "Inference: time for the same rows against the pretrained model's, in turns in one process. A method that "
        "`luthier export RUN merged` folds into the weights then costs what the pretrained model does.",
    ]
    return join([element("p", line) for line in told])


def cells(result: Record) -> Html:
    """Every run in a table that opens, with its folder."""
    rows: list[list[Any]] = []
    for method in result["methods"]:
        for cell in method["cells"]:
            done = cell["status"] == "finished"
            before = ((cell.get("before") or {}).get(result["metric"]) or {}).get("value")
            steps = f"{count(cell['steps'])}, best {count(cell['best_step'])}" if done and cell["best_step"] else None
            score = f"{cell['score']:.4f}" if done else cell["status"]
            time = duration(cell["wall_seconds"]) if cell.get("wall_seconds") else "–"
            folder = element("code", f"cells/{cell['run'] if done else cell['folder']}") if "folder" in cell else "–"
            rows.append([method["name"], str(cell["seed"]), plain(before), score, steps or "–", time, folder])
    head = ["Method", "Seed", "Before", "Score", "Steps", "Time, all in all", "Folder"]
    listing = table(head, rows, caption="Every run", numeric={1, 2, 3, 4, 5})
    return element("details", element("summary", f"{count(len(rows))} runs"), listing)
