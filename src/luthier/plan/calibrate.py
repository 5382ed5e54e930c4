"""Estimates corrected by what runs on this machine took.

A run leaves in its folder what its steps took: seconds, tokens and memory in metrics.jsonl, the peak of the whole in
result.json, the machine in run.json. Runs of the same model, method, precision and machine are planned as they were,
and the median of measured / planned scales a new plan. What was planned for them is kept in ``<out>/.cache``.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from luthier.plan.estimate import Estimate
from luthier.recipe import ResolvedRecipe, read_recipe
from luthier.reports.folder import read_run
from luthier.runs.folder import write_json
from luthier.types import Refused

NEWEST = 3
FEWEST_STEPS = 3
FORMAT = 1  # of what is kept; another one is planned anew

Measured = dict[str, Any]


def correct(found: Estimate, resolved: ResolvedRecipe, estimate: Callable[..., Estimate]) -> None:
    """Scale ``found`` by the runs beside it, planned by ``estimate`` from their own recipes; say so in ``origin``."""
    out = Path(resolved.recipe.out)
    runs = measured(out, found)
    planned = [(run, _planned(out, run, found, estimate)) for run in runs]
    memory = [run["peak"] / plan["peak"] for run, plan in planned if plan and run["peak"]]
    steps = [run["step"] / plan["step"] for run, plan in planned if plan and plan["step"] and run["step"]]
    if memory:
        by = statistics.median(memory)
        found.peak, found.scale = found.peak * by, by
        found.origin["memory"] = f"corrected by {_runs(memory)}: ×{by:.2f}"
    if steps:
        by = statistics.median(steps)
        found.timing.scaled(by)
        found.origin["time"] = f"from the measured steps of {_runs(steps)}: ×{by:.2f} of the estimate"


def _runs(ratios: list[float]) -> str:
    return f"{len(ratios)} run{'s' if len(ratios) > 1 else ''}"


def measured(out: Path, found: Estimate) -> list[Measured]:
    """The newest runs like this one: ``peak`` bytes (None where a run did not end) and median ``step`` seconds."""
    alike = []
    for path in sorted(out.glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            run = read_run(path.parent)
            if _key(run.run) == _key_of(found):
                alike.append(_measured(path.parent, run))
        except (Refused, ValueError, KeyError, TypeError, OSError):
            continue  # a damaged run tells nothing
        if len(alike) == NEWEST:
            break
    return alike


def _key(run: dict[str, Any]) -> tuple[Any, ...]:
    machine = run["machine"]
    return run["model"]["name"], str(run["method"]), machine["precision"], machine.get("name"), machine["threads"]


def _key_of(found: Estimate) -> tuple[Any, ...]:
    method = next((value for key, value, _ in found.recipe if key == "method"), "")
    named = "+".join(method) if isinstance(method, list) else str(method)
    return found.model["name"], named, found.model["precision"], found.device.name, torch.get_num_threads()


def _measured(folder: Path, run: Any) -> Measured:
    """A step's time is the median of the differences between records of steps that follow each other."""
    records = [record for record in run.records if record.get("kind") == "train"]
    judged = {record["step"] for record in run.records if record.get("kind") == "eval"}
    steps = [
        after["seconds"] - before["seconds"]
        for before, after in itertools.pairwise(records)
        if after["step"] == before["step"] + 1 and before["step"] not in judged
    ]
    peak = (run.result or {}).get("peak_memory_mb")
    return {
        "folder": folder,
        "hash": run.run["recipe_hash"],
        "peak": peak * 2**20 if peak else None,
        "step": statistics.median(steps) if len(steps) >= FEWEST_STEPS - 1 else None,
    }


def _planned(out: Path, run: Measured, found: Estimate, estimate: Callable[..., Estimate]) -> dict[str, float] | None:
    """What a plan of that run's own recipe says, uncorrected: remembered, or planned now."""
    path = out / ".cache" / "planned.json"
    known = _read(path)
    key = f"{FORMAT} {version('luthier')} {run['hash']} {found.device.name}"
    if key not in known:
        try:
            resolved, _ = read_recipe(run["folder"] / "recipe.yaml")
            if resolved is None:
                return None
            plan = estimate(resolved, found.device, base=found.parts.get("base"))
        except Refused:
            return None  # its data or its model are gone
        known[key] = {"peak": plan.peak, "step": plan.timing.step}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    return known[key]


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
