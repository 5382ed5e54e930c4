"""Benchmarks of lm-evaluation-harness on a finished run (``luthier evaluate RUN --lm-eval TASKS``)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from luthier.runs.run import Run
from luthier.types import Finding, Refused


def harness(
    run: Run, tasks: Sequence[str], *, include_path: str | None = None, fewshot: int | None = None,
    limit: int | None = None, chat_template: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Measures of each task: value, standard error and number of rows, as the harness gives them.

    ``include_path``: a folder with tasks of one's own; ``fewshot``: examples before each question, if not as
    many as the task says; ``limit``: only the first so many rows; ``chat_template``: ask in turns, by the run's own.
    Raises Refused.
    """
    if find_spec("lm_eval") is None:
        mend = 'pip install "luthier[lm-eval]"'
        raise Refused(Finding("evaluate.lm-eval", "--lm-eval", "lm-evaluation-harness is not installed", mend))
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from luthier.runs.finished.harness_model import RunModel

    manager = TaskManager(include_path=include_path)
    if findings := [finding for name in tasks for finding in _unknown(name, manager.all_tasks)]:
        raise Refused(*findings)
    model = RunModel(run)
    found = simple_evaluate(
        model=model, tasks=list(tasks), num_fewshot=fewshot, limit=limit, task_manager=manager, log_samples=False,
        apply_chat_template=chat_template,
    )  # fmt: skip
    return {
        "lm_eval": version("lm_eval"), "fewshot": fewshot, "limit": limit, "chat_template": chat_template,
        "truncated": model.texts.truncated,
        "tasks": {name: _measures(name, told, found) for name, told in found["results"].items()},
    }  # fmt: skip


def _unknown(name: str, known: Sequence[str]) -> list[Finding]:
    if name in known:
        return []
    near = difflib.get_close_matches(name, known, n=3)
    mend = f"did you mean {', '.join(near)}?" if near else "give the folder of its YAML file with `--include-path`"
    return [Finding("evaluate.unknown-task", "--lm-eval", f"the harness has no task {name!r}", mend)]


def _measures(name: str, told: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Of a task's results, named ``metric,filter``, those that are numbers."""
    measures: dict[str, dict[str, float]] = {}
    for key, value in told.items():
        metric, _, filtered = key.partition(",")
        if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = told.get(f"{metric}_stderr,{filtered}")
        shown = metric if filtered == "none" else f"{metric} ({filtered})"
        measures[shown] = {"value": float(value)} | ({"stderr": float(error)} if isinstance(error, float) else {})
    rows = found.get("n-samples", {}).get(name, {}).get("effective")
    return {"rows": rows, "version": found.get("versions", {}).get(name), "metrics": measures}
