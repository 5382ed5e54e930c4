"""A teacher at work: its logits of rows with classes, made once, and its own score, beside which the student stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from luthier.engine.cache import cached_once, rows_hash
from luthier.engine.parallel import Processes
from luthier.evaluate.outputs import Reader
from luthier.objectives.distill import LOGITS, Classes, Taught
from luthier.runs.beside.teacher import teacher_of
from luthier.runs.folder import write_json
from luthier.runs.prepared import Prepared
from luthier.runs.run import read_info
from luthier.types import Features, Finding

FILE = "teacher.json"


def with_logits(prepared: Prepared, rows: list[Features], processes: Processes) -> list[Features]:
    """Training rows with the teacher's logits, computed once (or found on disk), where it tells classes apart."""
    objective, teacher = prepared.objective, teacher_of(prepared.objective)
    if teacher is None or not isinstance(objective, Classes):
        return rows
    told = "-".join((teacher.fingerprint, rows_hash(rows), prepared.resolved.recipe.precision))
    key = f"teacher-{rows_hash([{'key': told}])[:32]}"
    folder = Path(prepared.resolved.recipe.out) / ".cache"

    def compute() -> list[torch.Tensor]:
        return [torch.tensor([logits]) for logits in read(prepared, rows)]

    made = cached_once(folder, key, compute, processes)
    return [row | {LOGITS: logits[0].tolist()} for row, logits in zip(rows, made, strict=True)]


def read(prepared: Prepared, rows: list[Features], processes: Processes | None = None) -> list[Any]:
    """The teacher's outputs of rows, as the task's own objective gives them; classes in the student's order."""
    objective, recipe = prepared.objective, prepared.resolved.recipe
    assert isinstance(objective, Taught) and objective.teacher is not None  # noqa: PT018
    teacher = objective.teacher
    with teacher.reading() as backbone:
        reader = Reader(backbone, int(recipe.micro_tokens or 0), recipe.precision, str(recipe.matmul), processes)
        outputs = reader.outputs(objective.reader(), objective.teacher_rows(rows))
    columns = teacher.columns
    return outputs if columns is None else [[logits[at] for at in columns] for logits in outputs]


def teacher_score(prepared: Prepared, folder: Path, processes: Processes) -> dict[str, Any] | None:
    """The teacher's metrics on the rows held out, measured once; None where there is no teacher or no such row."""
    teacher, rows = teacher_of(prepared.objective), prepared.evaluation.rows
    if teacher is None or not rows:
        return None
    path = folder / FILE
    known = processes.agree(path.read_text(encoding="utf-8") if path.is_file() else "")
    if known:
        return json.loads(known)
    outputs = read(prepared, rows, processes)
    metrics = prepared.task.with_intervals(outputs, rows)
    metrics.setdefault("loss", {"value": prepared.objective.mean_loss(outputs, rows)})
    found = {"name": teacher.name, "fingerprint": teacher.fingerprint, "metrics": metrics}
    if processes.main:
        write_json(path, found)
    processes.barrier()
    return found


def weaker(prepared: Prepared, score: dict[str, Any], before: dict[str, Any] | None) -> list[Finding]:
    """A warning where the teacher is no better than the student is before it has learned anything."""
    name = str(prepared.resolved.recipe.metric)
    theirs, ours = (metrics.get(name, {}).get("value") for metrics in (score["metrics"], before or {}))
    if theirs is None or ours is None:
        return []
    better = theirs > ours if prepared.task.metrics[name] else theirs < ours
    if better:
        return []
    what = f"the teacher reaches {name} {theirs:.4f} on the rows held out, the student {ours:.4f} before it has learned"
    mend = "take a better teacher, or leave `distill:` out and learn from the labels"
    return [Finding("distill.weak-teacher", "distill.teacher", what, mend, "it would be taught to be worse", "warning")]


def closed(score: dict[str, Any], before: dict[str, Any] | None, after: dict[str, Any], metric: str) -> float | None:
    """How much of the gap between student and teacher was closed: (after - before) / (teacher - before)."""
    teacher, first, last = (m.get(metric, {}).get("value") for m in (score["metrics"], before or {}, after))
    if teacher is None or first is None or last is None or teacher == first:
        return None
    return float((last - first) / (teacher - first))


def changed(prepared: Prepared, first: Path) -> list[Finding]:
    """An unfinished run of the same recipe and rows that another teacher began: it can't go on under this one."""
    teacher = teacher_of(prepared.objective)
    if teacher is None:
        return []
    for folder in (first, *sorted(first.parent.glob(f"{first.name}-*"))):
        if not (folder / "run.json").is_file():
            continue
        info = read_info(folder / "run.json")
        theirs = info.get("teacher") or {}
        same = theirs.get("of") == prepared.untaught and theirs.get("name") == teacher.name
        if same and info["status"] != "finished" and theirs["fingerprint"] != teacher.fingerprint:
            what = f"the weights of {teacher.name} are others than those that began to teach in {folder}"
            mend = "put the teacher back, or begin anew with another `name=` or `out=`"
            why = "a run that changes its teacher on the way is no run that could be repeated"
            return [Finding("distill.teacher-changed", "distill.teacher", what, mend, why)]
    return []
