"""A comparison as it is asked for: validated, its rows read once, and what is the same for all its runs fixed."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.comparison.contenders import Contender, check_contenders, read_contenders
from luthier.comparison.forgetting import Retention
from luthier.comparison.search import load_optuna
from luthier.recipe import ResolvedRecipe, read_values
from luthier.recipe.read import of_one_run
from luthier.recipe.validate import validate
from luthier.runs.rows import Rows, read_rows
from luthier.tasks import TASKS
from luthier.types import Finding, Refused

# Of what is left for training; the evaluation rows choose nothing.
SELECTION_SHARE = 0.1
FEW_TO_CHOOSE_ON = 50
DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@dataclass(frozen=True)
class Wish:
    """The options of `luthier compare`."""

    methods: str | Sequence[Any]
    seeds: int = 3
    budget: str | float | None = None
    search: int = 0
    search_share: float = 0.3
    retention: str | None = None
    to: str | Path | None = None


@dataclass(frozen=True)
class Asked:
    """``values`` are the recipe's, with all that every run shares; ``content`` stands for the rows of all sides."""

    wish: Wish
    values: dict[str, Any]
    base: Path
    contenders: list[Contender]
    seeds: list[int]
    budget: float | None
    retention: str | None
    folder: Path
    content: str
    about: dict[str, Any]

    def recipe(self, contender: Contender, seed: int, rate: float | None = None) -> dict[str, Any]:
        """The recipe of one run: only the method and what it may set, and the seed of training, differ."""
        given = {"learning_rate": rate} if rate is not None else {}
        return contender.recipe(self.values) | {"seed": seed} | given


def read_asked(source: Any, overrides: Sequence[str], wish: Wish) -> Asked:
    """Everything that can be refused before anything is spent, is refused here."""
    contenders = read_contenders(wish.methods)
    budget, findings = _options(wish)
    values, origins, base, where, mistakes = read_values(source, overrides)
    of_one_run(values, where)
    findings += mistakes + _own_rate(values, origins, contenders)
    check_contenders(contenders, values, origins, base, where)
    resolved = _validated(contenders[0], values, origins, base, where)
    values = _fixed(values, resolved, wish)
    resolved = _validated(contenders[0], values, origins, base, where)
    rows, told = _rows(resolved)
    findings += told
    file = str(Path(wish.retention).absolute()) if wish.retention else None
    retention = Retention(file, resolved.recipe.task) if file else None
    if any(finding.severity == "error" for finding in findings):
        raise Refused(*findings)
    seeds = [resolved.recipe.seed + i for i in range(wish.seeds)]
    return Asked(
        wish, values, base, contenders, seeds, budget,
        retention=file,
        folder=Path(wish.to or Path(resolved.recipe.out) / _name(resolved)).absolute(),
        content=_content(rows, retention),
        about=_about(resolved, rows, seeds, wish, retention, findings) | {"rate_given": "learning_rate" in values},
    )  # fmt: skip


def seconds_of(budget: str | float | None) -> float | None:
    """30, "90s", "30m", "1h30m" → seconds."""
    if budget is None or isinstance(budget, int | float):
        return budget
    match = DURATION.fullmatch(budget.replace(" ", ""))
    if match is None or not any(match.groups()):
        what = f"{budget!r} is no duration"
        raise Refused(Finding("compare.budget", "--budget", what, "write 90s, 30m or 1h30m"))
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600.0 * hours + 60 * minutes + seconds


def _options(wish: Wish) -> tuple[float | None, list[Finding]]:
    findings = []
    for name, value, least in (("--seeds", wish.seeds, 1), ("--search", wish.search, 0)):
        if value < least:
            findings.append(Finding("recipe.value", name, f"got {value}", f"give at least {least}"))
    if not 0 < wish.search_share <= 1:
        what = f"got {wish.search_share}"
        findings.append(Finding("recipe.value", "--search-share", what, "give a share above 0, at most 1"))
    if wish.search:
        load_optuna()
    return seconds_of(wish.budget), findings


def _own_rate(values: dict[str, Any], origins: dict[str, str], contenders: Sequence[Contender]) -> list[Finding]:
    """A file's learning rate was found for its own method; the others would have it to their harm."""
    if "learning_rate" not in values or origins.get("learning_rate") == "command line":
        return []
    rate = values.pop("learning_rate")
    what = f"the recipe's learning rate {rate} is left out: each method has its own"
    mend = (
        f"give one to a method, as in `{contenders[0].label.partition('(')[0]}(learning_rate={rate})`, or use --search"
    )
    why = "one rate for all would favour the method that it was chosen for"
    place = origins.get("learning_rate", "learning_rate")
    return [Finding("compare.learning-rate", place, what, mend, why, "note")]


def _validated(
    contender: Contender, values: dict[str, Any], origins: dict[str, str], base: Path, where: str
) -> ResolvedRecipe:
    resolved, findings = validate(copy.deepcopy(contender.recipe(values)), dict(origins), base, where)
    if resolved is None:
        raise Refused(*findings)
    return resolved


def _fixed(values: dict[str, Any], resolved: ResolvedRecipe, wish: Wish) -> dict[str, Any]:
    """The same rows, passes and batches for every method, whatever its own defaults are."""
    recipe = resolved.recipe
    defaults = TASKS.load(recipe.task).DEFAULTS
    data = values["data"] if isinstance(values["data"], dict) else {"train": values["data"]}
    data = {"split_seed": recipe.seed, **data}
    if wish.search or recipe.patience or recipe.final != "last":
        data = {"select": SELECTION_SHARE, **data}
    passes = {} if "steps" in values else {"epochs": values.get("epochs", defaults.get("epochs", recipe.epochs))}
    batch = {"batch_size": values.get("batch_size", defaults.get("batch_size", 16))}
    kept = {key: value for key, value in values.items() if key not in ("out", "name")}
    return kept | passes | batch | {"data": data}


def _rows(resolved: ResolvedRecipe) -> tuple[Rows, list[Finding]]:
    task = TASKS.load(resolved.recipe.task).Task(resolved.task_options)
    rows = read_rows(resolved, task)
    findings = list(rows.findings)
    if rows.train:
        findings += task.study([*rows.train, *rows.selection], rows.evaluation)
    failed = any(finding.severity == "error" for finding in findings)
    if not rows.evaluation and not failed:
        mend = "give `data.eval`: a file, or a share of train to split off"
        findings.append(Finding("compare.no-rows", "data.eval", "there are no rows to compare the methods on", mend))
    if rows.selection and len(rows.selection) < FEW_TO_CHOOSE_ON:
        what = f"checkpoints are chosen on {len(rows.selection)} rows, which choose poorly"
        mend = "raise `data.select`, or set `final: last`, which chooses nothing"
        findings.append(Finding("compare.few-to-choose-on", "data.select", what, mend, severity="warning"))
    return rows, findings


def _name(resolved: ResolvedRecipe) -> str:
    recipe = resolved.recipe
    model = recipe.model.name.rstrip("/").replace(":", "/").split("/")[-1]
    return recipe.name or f"compare-{recipe.task}-{model}".lower()


def _content(rows: Rows, retention: Retention | None) -> str:
    sides = (rows.train, rows.selection, rows.evaluation)
    told = [[(str(e.source), e.text, e.messages, e.label, e.weight) for e in side] for side in sides]
    return hashlib.sha256(repr((told, retention.digest if retention else None)).encode()).hexdigest()


def _about(
    resolved: ResolvedRecipe, rows: Rows, seeds: list[int], wish: Wish, retention: Retention | None,
    findings: list[Finding],
) -> dict[str, Any]:  # fmt: skip
    recipe = resolved.recipe
    chosen = {"steps": recipe.steps} if recipe.steps else {"epochs": recipe.epochs}
    told = None
    if retention:
        file = Path(str(wish.retention)).name
        told = {"file": file, "name": retention.name, "probe": retention.probe, "rows": len(retention.examples)}
    return {
        "task": recipe.task,
        "model": recipe.model.name,
        "seeds": seeds,
        "split_seed": recipe.data.split_seed,
        "rows": {"train": len(rows.train), "selection": len(rows.selection), "evaluation": len(rows.evaluation)},
        "evaluation": [Path(file).name for file in rows.report["eval"]["files"]],
        "same": chosen | {"batch_size": recipe.batch_size},
        "search": {"trials": wish.search, "share": wish.search_share} if wish.search else None,
        "retention": told,
        "findings": [vars(finding) for finding in findings],
    }
