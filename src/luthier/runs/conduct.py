"""``tune`` and ``check``: from a recipe to a run folder. The same command goes on where it was stopped."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.engine.checkpoint import lock
from luthier.engine.parallel import Processes
from luthier.evaluate.outputs import Reader
from luthier.recipe import ResolvedRecipe, read_recipe, read_values
from luthier.recipe.read import validated
from luthier.recipe.stages import KEY
from luthier.reports.console import Console
from luthier.runs.before import measure_before
from luthier.runs.beside.reference import give_references
from luthier.runs.beside.teaching import changed, closed, teacher_score, weaker
from luthier.runs.errors import keep_errors
from luthier.runs.finding.passages import Passages
from luthier.runs.folder import describe, find_folder, first_folder, set_status, write_json
from luthier.runs.fused import mixing
from luthier.runs.pixels import stopped_otherwise
from luthier.runs.predictor import Predictor
from luthier.runs.prepare import REAL, prepare
from luthier.runs.prepared import Prepared
from luthier.runs.result import SAMPLES, finish
from luthier.runs.run import Run
from luthier.runs.stages import check_stages, tune_stages
from luthier.runs.training import solve, train
from luthier.types import Finding, Refused


def read(source: Any, overrides: Sequence[str], keys: dict[str, Any]) -> tuple[ResolvedRecipe | None, list[Finding]]:
    """A recipe from a file, a dictionary or keywords."""
    return read_recipe(*_spelled(source, overrides, keys))


def _spelled(source: Any, overrides: Sequence[str], keys: dict[str, Any]) -> tuple[Any, Sequence[str]]:
    """Keywords as overrides of a source, or as the source where there is none."""
    if source is None:
        return keys, overrides
    return source, [*overrides, *(f"{key}={json.dumps(value)}" for key, value in keys.items())]


def check(source: Any = None, overrides: Sequence[str] = (), **keys: Any) -> tuple[list[Finding], Prepared | None]:
    """Everything that is wrong, without a step taken: (findings, Prepared or None where it can't be prepared)."""
    try:
        given = read_values(*_spelled(source, overrides, keys))
        if KEY in given[0]:
            return check_stages(given, _check)
        resolved, findings = validated(given)
        return _check(resolved, findings) if resolved is not None else (findings, None)
    except Refused as refused:
        return refused.findings, None


def _check(resolved: ResolvedRecipe, findings: list[Finding]) -> tuple[list[Finding], Prepared | None]:
    try:
        prepared = prepare(resolved, Processes().device, findings, replace(REAL, writes=False))
    except Refused as refused:
        return refused.findings, None
    return prepared.findings, prepared


def tune(source: Any = None, overrides: Sequence[str] = (), *, console: Console | None = None, **keys: Any) -> Run:
    """Adapt a model to a task; returns the finished run (or the one that was asked to stop).

    ``source`` is a recipe's path or a dictionary; or give its keys: ``tune(task="classify", model="starter:minilm",
    data="rows.jsonl", method="lora")``. Raises Refused, with all findings, before the first step. A recipe with stages
    gives the run of its last one.
    """
    console = (console or Console(quiet=True)) if Processes().main else Console(quiet=True)
    given = read_values(*_spelled(source, overrides, keys))
    if KEY in given[0]:
        return tune_stages(given, _check, lambda resolved, findings: _tune(resolved, findings, console), console)
    resolved, findings = validated(given)
    if resolved is None:
        raise Refused(*findings)
    return _tune(resolved, findings, console)


def _tune(resolved: ResolvedRecipe, findings: list[Finding], console: Console) -> Run:
    processes = Processes()
    prepared = prepare(resolved, processes.device, findings)
    if prepared.errors:
        raise Refused(*prepared.findings)
    if other := changed(prepared, first_folder(prepared)):
        raise Refused(*other)
    prepared.findings += stopped_otherwise(resolved, first_folder(prepared))
    folder = Path(processes.agree(str(find_folder(prepared))))
    if (folder / "run.json").is_file() and Run(folder).finished:
        text = f"this very run is done, in {folder} (change the recipe, or give another `out=`)"
        console.event({"event": "finished", "text": text})
        console.finish(Run(folder).result, folder)
        return Run(folder)
    console.recipe(resolved.rows())
    console.findings(prepared.findings)
    if not processes.main:
        _conduct(prepared, folder, processes, console)
        return Run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        _conduct(prepared, folder, processes, console)
    return Run(folder)


def _conduct(prepared: Prepared, folder: Path, processes: Processes, console: Console) -> None:
    passages = Passages.of(prepared.resolved, prepared.task) if prepared.prompts else None
    reader = _reader(prepared, processes)
    predictor = Predictor(prepared.task, prepared.backbone, prepared.objective, reader, passages=passages)
    if processes.main:
        write_json(folder / "run.json", describe(prepared, processes.device, folder))
        if answers := prepared.data["train"].get("answers"):
            shutil.copyfile(answers["file"], folder / "answers.jsonl")
        (folder / "recipe.yaml").write_text(prepared.resolved.to_yaml(), encoding="utf-8")
    give_references(prepared, processes)
    before = measure_before(prepared, predictor, folder, processes)
    taught = teacher_score(prepared, folder, processes)
    if taught is not None and (weak := weaker(prepared, taught, before["metrics"])):
        prepared.findings += weak
        console.findings(weak)
    began = time.monotonic()
    if prepared.adaptation.solve is not None:
        outcome = solve(prepared, predictor)
    else:
        outcome = train(prepared, predictor, folder, processes, console)
    if str(outcome["stopped"]).startswith("SIG"):
        if processes.main:
            set_status(folder, "stopped", signal=outcome["stopped"])
            text = f"{outcome['stopped']}: saved; the same command goes on"
            console.event({"step": outcome["steps"], "event": "stopped", "text": text})
        return
    outcome["seconds"] = round(outcome["seconds"] or time.monotonic() - began, 2)
    rows = prepared.evaluation.rows
    outputs = predictor.row_outputs(rows) if rows else []
    after = predictor.judged(rows, outputs) if rows else {}
    if taught is not None:
        share = closed(taught, before["metrics"], after, str(prepared.resolved.recipe.metric))
        outcome["teacher"] = taught | {"closed": share}
    if prepared.adaptation.mixing is not None and rows:
        outcome["mixing"] = mixing(prepared, predictor)
    if prepared.adaptation.told is not None:
        outcome |= prepared.adaptation.told()
    if processes.main:
        after |= predictor.generated(prepared.evaluation)
        samples = keep_errors(prepared, predictor, folder, outputs, SAMPLES)
        finish(prepared, predictor, folder, before, after, outcome, samples)
        console.finish(Run(folder).result, folder)
    processes.barrier()


def _reader(prepared: Prepared, processes: Processes) -> Reader:
    recipe = prepared.resolved.recipe
    return Reader(
        prepared.backbone,
        micro_tokens=int(recipe.micro_tokens or 0),
        precision=recipe.precision,
        matmul=recipe.matmul,
        processes=processes,
    )
