"""From cells to compare.json: one entry for each method, failures too, and what to take."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

from luthier.comparison.cells import Cell
from luthier.comparison.contenders import Contender
from luthier.comparison.search import Search
from luthier.evaluate.paired import difference, summary
from luthier.reports.recommend import recommend

FORMAT = 1
# What of a cell stands in compare.json as it is.
KEPT = (
    "status", "reason", "score", "before", "after", "learning_rate", "trainable", "parameters", "steps", "best_step",
    "stopped", "seconds", "wall_seconds", "peak_memory_mb", "weights_mb", "inference", "retention", "per_row",
    "replicates", "run",
)  # fmt: skip


def assemble(
    about: dict[str, Any], contenders: Sequence[Contender], cells: Sequence[Cell], searches: dict[str, Search]
) -> dict[str, Any]:
    """compare.json. ``value`` and intervals over the rows, the spread over seeds, differences from the best, costs."""
    done = [cell for cell in cells if cell.done]
    alike = {cell.told["rows_hash"] for cell in done[:1]}
    for cell in done:
        if cell.told["rows_hash"] not in alike:  # for one, rows too long for a method that makes them longer
            cell.told = {"status": "failed", "reason": "it was evaluated on other rows than the first method"}
    methods = [
        _method(
            contender, [cell for cell in cells if cell.contender is contender], searches.get(contender.label), about
        )
        for contender in contenders
    ]
    first = done[0].told if done else {}
    scored = {key: first.get(key) for key in ("metric", "higher_is_better", "machine", "versions")}
    _compare_to_best(methods, bool(first.get("higher_is_better")))
    told = {"format": FORMAT, "created": datetime.now().isoformat(timespec="seconds"), "luthier": version("luthier")}
    result = {**told, **about, **scored, "methods": methods}
    return result | recommend(result)


def _method(contender: Contender, cells: list[Cell], search: Search | None, about: dict[str, Any]) -> dict[str, Any]:
    found = {cell.seed: {"seed": cell.seed, **_kept(cell)} for cell in cells}
    told = [found.get(seed, {"seed": seed, "status": "left out"}) for seed in about["seeds"]]
    done = [cell for cell in told if cell["status"] == "finished"]
    entry: dict[str, Any] = {"name": contender.label, "status": _status(told), "reason": _reason(told), "cells": told}
    entry["search"] = search.report() if search and search.trials else []
    entry["rate_from"] = _rate_from(contender, search, about)
    if not done:
        return entry
    scores = [cell["score"] for cell in done]
    entry["score"] = summary(scores, [cell["replicates"] for cell in done], len(done[0]["per_row"]))
    entry |= {key: done[0][key] for key in ("learning_rate", "trainable", "parameters", "steps")}
    # The longest: a later seed may find in the cache what an earlier one computed.
    entry |= {key: max(cell[key] for cell in done) for key in ("seconds", "peak_memory_mb", "weights_mb")}
    entry["inference"] = round(statistics.median(cell["inference"]["ratio"] for cell in done), 3)
    if done[0].get("retention"):
        kept = [cell["retention"] for cell in done]
        after = [one["after"] for one in kept]
        spread = {"after": statistics.mean(after), "min": min(after), "max": max(after)}
        entry["retention"] = {"before": kept[0]["before"], **spread}
    return entry


def _kept(cell: Cell) -> dict[str, Any]:
    told = {key: cell.told[key] for key in KEPT if key in cell.told}
    if cell.told.get("findings"):
        told["findings"] = cell.told["findings"]
    return told | {"folder": cell.folder.name}


def _status(told: list[dict[str, Any]]) -> str:
    """ "finished" where every seed is; "partial" where one is; else what became of the first seed."""
    states = [cell["status"] for cell in told]
    if "finished" in states:
        return "finished" if set(states) == {"finished"} else "partial"
    return states[0]


def _reason(told: list[dict[str, Any]]) -> str:
    """Why a seed is missing: the first reason that there is."""
    for cell in told:
        errors = [found for found in cell.get("findings", []) if found["severity"] == "error"]
        if errors:
            first, more = errors[0], len(errors) - 1
            mend = f"; {first['mend']}" if first["mend"] else ""
            return f"{first['what']}{mend} [{first['code']}]" + (f" and {more} more" if more else "")
        if cell.get("reason"):
            return cell["reason"]
    return ""


def _rate_from(contender: Contender, search: Search | None, about: dict[str, Any]) -> str:
    if "learning_rate" in contender.own or about.get("rate_given"):
        return "given"
    if search and search.count:
        return "searched" if search.rate is not None else "default, kept"
    return "default"


def _compare_to_best(methods: list[dict[str, Any]], higher: bool) -> None:
    """The difference of each from the best mean score, on the same rows."""
    known = [method for method in methods if "score" in method]
    if not known:
        return
    choose: Callable[..., Any] = max if higher else min
    best = choose(known, key=lambda method: method["score"]["value"])
    for method in known:
        if method is not best:
            (ours, our_draws), (theirs, their_draws) = _scores(method), _scores(best)
            method["difference"] = difference(ours, our_draws, theirs, their_draws)


def _scores(method: dict[str, Any]) -> tuple[list[float], list[list[float]]]:
    done = [cell for cell in method["cells"] if cell["status"] == "finished"]
    return [cell["score"] for cell in done], [cell["replicates"] for cell in done]
