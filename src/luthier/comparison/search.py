"""A small search over learning rates for one method: its default, a half-decade to each side, then optuna's TPE.

Each trial is a shorter run on the same training rows, judged on the selection rows alone (Bergstra et al. 2011).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luthier.comparison.cells import Cell
from luthier.types import Finding, Refused

# Rates are looked for within a factor of ten of the default.
REACH = 10.0
FIRST = (None, 3.0, 1 / 3)


def load_optuna() -> Any:
    """Raises Refused where it is not installed."""
    try:
        import optuna
    except ImportError:
        what = "the search needs optuna, which is not installed"
        raise Refused(Finding("compare.search", "--search", what, "pip install 'luthier[search]'")) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Search:
    """Trials in order, each made when those before it are known; a search that goes on makes the same ones again.

    ``make(rate)`` gives the cell of a trial (None: the method's own rate).
    """

    def __init__(self, count: int, make: Callable[[float | None], Cell]):
        self.count, self.make = count, make
        self.trials: list[Cell] = []
        self.rates: list[float] = []

    @property
    def has_rate(self) -> bool:
        """A method that is fitted without steps has no learning rate; one that failed at its own is not searched."""
        return not self.trials or self.trials[0].told.get("learning_rate") is not None

    @property
    def complete(self) -> bool:
        return len(self.trials) >= self.count or not self.has_rate

    @property
    def rate(self) -> float | None:
        """The best trial's; None for the method's own (also where nothing was searched)."""
        best = self._best()
        return self.rates[best] if best else None

    def next(self) -> Cell | None:
        """The next trial, or None when there is none."""
        return None if self.complete else self.make(self._suggested())

    def tell(self, trial: Cell) -> None:
        self.trials.append(trial)
        self.rates.append(trial.told.get("learning_rate") or trial.spec["recipe"].get("learning_rate") or 0.0)

    def value(self, trial: Cell) -> float | None:
        """The metric on the selection rows, of the checkpoint that the recipe would keep."""
        known = [value for value in trial.told.get("chosen_on", []) if value is not None]
        if not known or trial.told["final"] == "last":
            return known[-1] if known else None
        return max(known) if trial.told["higher_is_better"] else min(known)

    def report(self) -> list[dict[str, Any]]:
        return [
            {"learning_rate": rate, "value": self.value(trial), "status": trial.status, "folder": trial.folder.name,
             "seconds": trial.told.get("wall_seconds"), "chosen": at == (self._best() or 0)}
            for at, (trial, rate) in enumerate(zip(self.trials, self.rates, strict=True))
        ]  # fmt: skip

    def _best(self) -> int | None:
        """The first of the best, so that the default stands where nothing beats it."""
        values = [(self.value(trial), at) for at, trial in enumerate(self.trials)]
        known = [(value, at) for value, at in values if value is not None]
        if not known:
            return None
        sign = 1 if self.trials[known[0][1]].told["higher_is_better"] else -1
        return max(known, key=lambda pair: (sign * pair[0], -pair[1]))[1]

    def _suggested(self) -> float | None:
        number = len(self.trials)
        if number == 0:
            return None
        own = self.rates[0]
        if number < len(FIRST):
            return _rounded(own * float(FIRST[number] or 1))
        optuna = load_optuna()
        higher = self.trials[0].told["higher_is_better"]
        sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=1)
        study = optuna.create_study(direction="maximize" if higher else "minimize", sampler=sampler)
        space = {"learning_rate": optuna.distributions.FloatDistribution(own / REACH, own * REACH, log=True)}
        for trial, rate in zip(self.trials, self.rates, strict=True):
            if (value := self.value(trial)) is not None:
                given = {"learning_rate": min(max(rate, own / REACH), own * REACH)}
                study.add_trial(optuna.trial.create_trial(params=given, distributions=space, value=value))
        return _rounded(study.ask(space).params["learning_rate"])


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
