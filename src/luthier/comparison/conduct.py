"""``compare``: several methods on the same rows, each cell in a process of its own. The same command goes on.

Three sets of rows, the same for every method and seed: train; selection, split off train, on which checkpoints (and
learning rates, where they are searched) are chosen; and the evaluation rows, which choose nothing and are reported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.comparison.asked import Asked, Wish, read_asked
from luthier.comparison.assemble import assemble
from luthier.comparison.cells import Cell, make_cell, run_cell
from luthier.comparison.contenders import Contender
from luthier.comparison.search import Search
from luthier.engine.checkpoint import lock
from luthier.engine.recovery import Stop, stop_on_signal
from luthier.reports.compare import write_comparison
from luthier.reports.compare_console import Progress


@dataclass
class Comparison:
    """A comparison's folder and what it found: compare.json as a dictionary."""

    folder: Path
    result: dict[str, Any]
    stopped: str = ""

    @property
    def status(self) -> str:
        """ "finished" where every run of every method is; else "unfinished"."""
        whole = all(method["status"] == "finished" for method in self.result["methods"])
        return "finished" if whole else "unfinished"

    @property
    def page(self) -> Path:
        return self.folder / "compare.html"


def compare(
    source: Any = None, overrides: Sequence[str] = (), *, methods: str | Sequence[Any], seeds: int = 3,
    budget: str | float | None = None, search: int = 0, search_share: float = 0.3, retention: str | None = None,
    to: str | Path | None = None, console: Progress | None = None, **keys: Any,
) -> Comparison:  # fmt: skip
    """Tune with each method under each seed, on the same rows, and say which to take and why.

    ``source`` and ``keys`` are a recipe, as for ``tune``. ``methods``: names, or names with options, such as
    ``"features,lora(rank=4),full"``. ``budget``: seconds, or "30m"; once it is used up no new cell begins. ``search``:
    trials of the learning rate for each method. ``retention``: a file to measure forgetting on. Raises Refused, with
    all findings, before anything is spent.
    """
    if source is None:
        source, keys = keys, {}
    overrides = [*overrides, *(f"{key}={json.dumps(value)}" for key, value in keys.items())]
    asked = read_asked(source, overrides, Wish(methods, seeds, budget, search, search_share, retention, to))
    console = console or Progress(quiet=True)
    console.begin(asked.about, asked.folder)
    asked.folder.mkdir(parents=True, exist_ok=True)
    with lock(asked.folder), stop_on_signal() as stop:
        work = Work(asked, stop, console)
        work.conduct()
        result = work.written()
    console.finish(result, asked.folder)
    return Comparison(asked.folder, result, stop.signal)


class Work:
    """Cells in their order: every method gets its first seed before any gets its second."""

    def __init__(self, asked: Asked, stop: Stop, console: Progress):
        self.asked, self.stop, self.console = asked, stop, console
        self.cells: list[Cell] = []
        self.searches: dict[str, Search] = {}
        self.began = time.monotonic()

    def conduct(self) -> None:
        for seed in self.asked.seeds:
            for contender in self.asked.contenders:
                if contender.label not in self.searches:
                    self.searches[contender.label] = self._searched(contender)
                self._cell(contender, seed, self.searches[contender.label])

    def written(self) -> dict[str, Any]:
        """compare.json and compare.html as far as the cells came."""
        result = assemble(self.asked.about, self.asked.contenders, self.cells, self.searches)
        write_comparison(self.asked.folder, result)
        return result

    def _cell(self, contender: Contender, seed: int, search: Search) -> None:
        asked, recipe = self.asked, self.asked.recipe(contender, seed, search.rate)
        name = f"{contender.slug}-seed{seed}"
        cell = make_cell(
            contender, seed, recipe, asked.folder / "cells", content=asked.content, retention=asked.retention, name=name
        )
        refused = [one for one in self.cells if one.contender is contender and one.status == "refused"]
        self.cells.append(cell)
        if refused:  # another seed would be refused as well
            cell.told = refused[0].told
        elif cell.done:
            self.console.kept(contender.label, seed, cell.told)
        elif not self._over() and search.complete:
            self._run(cell, f"{contender.label}, seed {seed}")
            self.written()
        else:
            reason = "the comparison was stopped" if self.stop else "the budget was used up"
            cell.told = {"status": "left out", "reason": reason}

    def _searched(self, contender: Contender) -> Search:
        """The search of a method's learning rate: of no trials where it was given, or none is wanted."""
        asked, wish = self.asked, self.asked.wish

        def trial(rate: float | None) -> Cell:
            recipe = asked.recipe(contender, asked.seeds[0], rate)
            length = "steps" if "steps" in recipe else "epochs"
            shorter = float(recipe[length]) * wish.search_share
            recipe[length] = max(1, round(shorter)) if length == "steps" else shorter
            name, folder = f"{contender.slug}-rate", asked.folder / "search"
            return make_cell(contender, asked.seeds[0], recipe, folder, content=asked.content, name=name, measure=False)

        given = "learning_rate" in asked.recipe(contender, 0)
        search = Search(0 if given else wish.search, trial)
        self._run_search(search, contender.label)
        return search

    def _run_search(self, search: Search, label: str) -> None:
        while (trial := search.next()) is not None:
            if not trial.done:
                if self._over():
                    return
                self._run(trial, f"{label}, trial {len(search.trials) + 1} of {search.count}")
            if trial.status == "stopped":
                return
            search.tell(trial)

    def _run(self, cell: Cell, text: str) -> None:
        self.console.starts(text)
        run_cell(cell, self.asked.base, self.stop)
        self.console.ended(cell.told)

    def _over(self) -> bool:
        """Asked to stop, or the budget is used up: nothing new begins."""
        limit = self.asked.budget
        return bool(self.stop) or (limit is not None and time.monotonic() - self.began >= limit)
