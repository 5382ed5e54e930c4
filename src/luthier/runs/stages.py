"""The stages of a recipe, one run folder each under one folder. The same command goes on in whichever was stopped.

All stages are checked before the first step of the first: one that begins where another ends with the model which that
one begins with. What a stage adapted is folded into the weights (``export/``, with its parity check), and the next ones
begin there: policy, reference, reward and value model of an RLHF run are then adapters of one base.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.engine.parallel import Processes
from luthier.recipe.read import Given
from luthier.recipe.resolved import ResolvedRecipe
from luthier.recipe.stages import Stage, mentioned, split
from luthier.recipe.validate import validate
from luthier.reports.console import Console
from luthier.runs.folder import write_json
from luthier.runs.prepared import Prepared
from luthier.runs.run import Run
from luthier.types import Finding, Refused

FILE = "stages.json"
One = Callable[[ResolvedRecipe, list[Finding]], Any]


def check_stages(given: Given, check: One) -> tuple[list[Finding], Prepared | None]:
    """What is wrong in any of them; and the last one, prepared as far as it can be."""
    values, origins, _, where, findings = given
    stages, wrong = split(values, origins, where)
    findings, prepared = [*findings, *wrong], None
    for stage in stages if not wrong else ():
        told, prepared = _check(stage, stages, given, check)
        findings += [replace(one, where=f"{stage.name}: {one.where}") for one in told]
    return findings, prepared


def tune_stages(given: Given, check: One, tune: One, console: Console) -> Run:
    """Every stage in turn; returns the last one's run, or that of the one which was asked to stop."""
    findings, _ = check_stages(given, check)
    if any(finding.severity == "error" for finding in findings):
        raise Refused(*findings)
    values, origins, base, where, _ = given
    stages, _ = split(values, origins, where)
    root, processes = _root(values, where), Processes()
    runs: dict[str, Run] = {}
    for number, stage in enumerate(stages, 1):
        console.note(f"stage {number} of {len(stages)}: {stage.name}")
        filled = stage.filled(
            lambda name: _relative(_model_of(runs[name], processes), base),
            lambda name: _relative(runs[name].folder, base),
        )
        resolved, told = validate(_placed(filled, root, stage.name), stage.origins, base, where)
        if resolved is None:
            raise Refused(*told)
        runs[stage.name] = run = tune(resolved, told)
        if processes.main:
            write_json(root / FILE, {name: _told(one) for name, one in runs.items()})
        if not run.finished:
            return run
    return run


def _check(stage: Stage, stages: list[Stage], given: Given, check: One) -> tuple[list[Finding], Prepared | None]:
    """With the model that the stages before it begin with, and without rewards that they will only make."""
    values, _, base, where, _ = given
    named = {one.name: one for one in stages}

    def first(name: str) -> Any:
        before = mentioned(named[name].model)
        if before is not None:
            return first(before)
        given = named[name].model
        return given if given is not None else copy.deepcopy(named[name].values.get("model"))

    filled = _placed(stage.filled(first, lambda name: None), _root(values, where), stage.name)
    resolved, told = validate(filled, stage.origins, base, where)
    if resolved is None:
        return told, None
    found: tuple[list[Finding], Prepared | None] = check(resolved, told)
    return found


def _placed(values: dict[str, Any], root: Path, name: str) -> dict[str, Any]:
    return values | {"out": str(root), "name": name}


def _root(values: dict[str, Any], where: str) -> Path:
    return Path(values.get("out") or "runs") / str(values.get("name") or Path(where).stem)


def _model_of(run: Run, processes: Processes) -> Path:
    """A folder that ``from_pretrained`` opens: the run's own, or the base with what it adapted folded in."""
    if run.info.get("opens_with") == "transformers":
        return run.folder / "final"
    merged = run.folder / "merged"
    if processes.main and not (merged / "config.json").is_file():
        run.export("merged")
    processes.barrier()
    return merged


def _relative(path: Path, base: Path) -> str:
    """From the recipe's folder, so that both can be moved together."""
    return os.path.relpath(path, base)


def _told(run: Run) -> dict[str, Any]:
    result = run.result
    metric = result.get("metric")
    values = {side: ((result.get(side) or {}).get(metric) or {}).get("value") for side in ("before", "after")}
    return {"folder": run.folder.name, "status": run.info["status"], "metric": metric, **values}
