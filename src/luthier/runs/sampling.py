"""Fixed prompts, answered as training goes on: read from the recipe, asked at their steps, kept in the run folder.

Answers are greedy and leave no trace: modes and random state are as before, so the weights of a run are the same with
and without them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.data.files.read import read_rows
from luthier.engine.plan import Plan
from luthier.recipe import ResolvedRecipe
from luthier.reports.trackers import truncate
from luthier.runs.predictor import Predictor
from luthier.runs.prepared import Prepared
from luthier.types import Finding

FILE = "samples_over_time.jsonl"


def read_prompts(resolved: ResolvedRecipe, task: Any) -> tuple[list[Any], list[Finding]]:
    """What is asked (texts, lists of turns, rows), and what is wrong with it."""
    given = resolved.recipe.samples.prompts
    findings: list[Finding] = []
    if given is None:
        return [], []
    if isinstance(given, str):
        rows, findings = read_rows(given, base=resolved.base)
        given = [row for _, row in rows]
    for index, prompt in enumerate(given):
        if problem := _problem(prompt, task):
            mend = "write a text, a list of turns, or a row as the task reads it"
            findings.append(Finding("recipe.value", f"samples.prompts[{index}]", problem, mend))
    return list(given), findings


def _problem(prompt: Any, task: Any) -> str:
    turns = prompt.get("messages") if isinstance(prompt, dict) and "messages" in prompt else prompt
    if isinstance(turns, list):
        sound = turns and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in turns)
        return "" if sound else "this is no list of turns with role and content"
    if not isinstance(prompt, str | dict):
        return f"this is no prompt: {prompt!r}"
    example = task.parse(prompt)
    said = (example.messages or [{}])[-1].get("content") or example.question or example.text
    return "" if str(said or "").strip() else "this prompt is empty"


class Sampling:
    """Writes ``samples_over_time.jsonl``: {"step", "prompt" (its number), "input", "answer"} a line."""

    def __init__(self, prepared: Prepared, predictor: Predictor, folder: Path, plan: Plan, *, enabled: bool):
        asked = prepared.resolved.recipe.samples
        self.path, self.prompts = folder / FILE, prepared.prompts if enabled else []
        self.every, self.last = asked.every or plan.eval_every, plan.steps
        self.options = dict(prepared.task.sample_options)
        if "max_new_tokens" in self.options:  # the task writes
            self.options["max_new_tokens"] = asked.max_new_tokens
        self.predictor = predictor.alone()

    def begin(self, resumed_from: int | None) -> None:
        """Before the first step: the model as it came. A run that goes on drops what came after its checkpoint."""
        if not self.prompts:
            return
        truncate(self.path, resumed_from)
        if resumed_from is None:
            self._ask(0)

    def after(self, step: int) -> None:
        if self.prompts and (step % self.every == 0 or step == self.last):
            self._ask(step)

    def _ask(self, step: int) -> None:
        task = self.predictor.task
        answers = self.predictor.answers(self.prompts, **self.options)
        with self.path.open("a", encoding="utf-8") as file:
            for number, (prompt, answer) in enumerate(zip(self.prompts, answers, strict=True)):
                shown = task.shown(task.parse(prompt))[0]
                line = {"step": step, "prompt": number, "input": shown, "answer": task.shown_answer(answer)}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
