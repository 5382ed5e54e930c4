"""Settings of a recipe that only its task, its rows or the machine can judge."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from luthier.data.formats.rows import reads_contexts
from luthier.reports.trackers import load_packages
from luthier.types import Finding, Refused

if TYPE_CHECKING:
    from luthier.recipe import ResolvedRecipe
    from luthier.runs.rows import Rows


def check_settings(resolved: ResolvedRecipe, task: Any, rows: Rows) -> list[Finding]:
    """Asked before the model is loaded, so that what is wrong with the model hides none of it."""
    findings = _trackers(resolved) + _split(resolved, task) + _passages(resolved, task)
    if rows.train:
        findings += _metric(resolved, task)
    if rows.train and not (rows.evaluation or rows.selection):
        findings += _without_evaluation(resolved)
    return findings


def _trackers(resolved: ResolvedRecipe) -> list[Finding]:
    try:
        load_packages(resolved.recipe.track)
    except Refused as refused:
        return refused.findings
    return []


def _split(resolved: ResolvedRecipe, task: Any) -> list[Finding]:
    if resolved.recipe.overlong != "split" or task.splits:
        return []
    what = f"the rows of `{resolved.recipe.task}` have no turns at which they could be split"
    return [Finding("recipe.combination", "overlong", what, "set `overlong:` to truncate or drop")]


def _passages(resolved: ResolvedRecipe, task: Any) -> list[Finding]:
    data = resolved.recipe.data
    if data.index is None:
        what, mend = "`data.passages` needs an index to take them from", "give `data.index`, or leave it out"
        said = data.passages != type(data).model_fields["passages"].default
        return [Finding("recipe.combination", "data.passages", what, mend)] if said else []
    if reads_contexts(task.formats):
        return []
    what = f"the rows of `{resolved.recipe.task}` have no question with a context, where passages would stand"
    return [Finding("recipe.combination", "data.index", what, "leave it out, or use `task: chat`")]


def _metric(resolved: ResolvedRecipe, task: Any) -> list[Finding]:
    metric = resolved.recipe.metric
    if metric is None or metric in task.metrics:
        return []
    near = difflib.get_close_matches(metric, task.metrics, n=1)
    mend = f"did you mean `{near[0]}`?" if near else f"one of: {', '.join(task.metrics)}"
    return [Finding("recipe.metric", "metric", f"this task has no metric `{metric}`", mend)]


def _without_evaluation(resolved: ResolvedRecipe) -> list[Finding]:
    recipe = resolved.recipe
    wanted = {"patience": recipe.patience is not None, "final: best": recipe.final == "best"}
    mend = "give `data.eval` rows or a share, or leave it out"
    return [
        Finding(
            "recipe.combination", key.partition(":")[0], f"`{key}` needs rows to evaluate on, and there are none", mend
        )
        for key, is_wanted in wanted.items()
        if is_wanted
    ]
