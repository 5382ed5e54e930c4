"""The teacher writes what is learned, before training: sequence-level distillation (Kim & Rush 2016, arXiv 1606.07947,
section 3.2).

It needs no vocabulary in common with the student. Answers are kept as they are written, in a file named by the
teacher's weights, the prompts and how they were decoded: stopped, the same command goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.data.split import content_key
from luthier.engine.parallel import Processes
from luthier.evaluate.outputs import Reader
from luthier.models.fingerprint import fingerprint
from luthier.models.load import load
from luthier.models.locate import locate
from luthier.objectives import next_token
from luthier.objectives.distill import Options
from luthier.recipe import ResolvedRecipe
from luthier.runs.predictor import Predictor
from luthier.runs.run import Run
from luthier.tasks import TASKS
from luthier.tasks.language import LanguageTask
from luthier.types import Example, Finding, Refused

AT_ONCE = 32  # rows between two writes
KEY = "distill.answers"
Told = dict[str, Any]


def with_answers(
    resolved: ResolvedRecipe, task: Any, examples: list[Example], device: Any, *, write: bool
) -> tuple[list[Example], Told | None, list[Finding]]:
    """(rows with the teacher's answers as targets, what is told of them, findings); as they are without `answers`.

    ``write`` False, for a check or a plan: rows are taken as they are. Raises Refused.
    """
    options = resolved.objective_options
    if not isinstance(options, Options) or not options.answers or not examples:
        return examples, None, []
    if not isinstance(task, LanguageTask) or task.taught(examples[0], "") is None:
        what = f"the rows of `{resolved.recipe.task}` have no place for an answer that a teacher writes"
        raise Refused(Finding(KEY, KEY, what, "use chat, summarize or translate, or compare distributions instead"))
    if options.teacher in (None, "base"):
        what = "nobody is named who would write them" if options.teacher is None else "`base` is the student itself"
        raise Refused(Finding(KEY, "distill.teacher", what, "name a run folder or a model"))
    if not write:
        what = f"before training the teacher writes answers for {len(examples)} rows; here rows are taken as they are"
        return examples, None, [Finding(KEY, KEY, what, severity="note")]
    processes = Processes()
    teacher = _open(str(options.teacher), resolved, device)
    settings = {"max_new_tokens": options.max_new_tokens, "num_beams": options.num_beams}
    path = Path(resolved.recipe.out) / ".cache" / f"answers-{_key(teacher, task, examples, settings)}.jsonl"
    if processes.main:
        _write(path, teacher, examples, settings)
    processes.barrier()
    answers = _read(path)
    told: Told = {"file": str(path), "teacher": options.teacher, **settings, "asked": len(examples)}
    kept, counted = _kept(task, examples, answers)
    if not kept:
        what = (
            f"of {len(examples)} answers none is finished within {options.max_new_tokens} tokens, or none says a word"
        )
        raise Refused(Finding(KEY, KEY, what, "raise `distill.max_new_tokens`, or take another teacher"))
    return kept, told | counted, []


def _open(name: str, resolved: ResolvedRecipe, device: Any) -> Predictor:
    """The teacher as it answers. Raises Refused."""
    folder = next((one for one in (resolved.base / name, Path(name)) if (one / "run.json").is_file()), None)
    if folder is not None:
        run = Run(folder)
        if run.info["task"] == resolved.recipe.task:
            return run.predictor
        what = f"the run {folder} was tuned for `{run.info['task']}`, and would be asked in words it does not know"
        raise Refused(Finding(KEY, "distill.teacher", what, f"name a run of `{resolved.recipe.task}`, or a model"))
    path, missing = locate(name, resolved.base)
    if missing:
        raise Refused(*missing)
    backbone = load(name, path, "token_logits")
    backbone.place(device)
    backbone.model.eval()
    task = TASKS.load(resolved.recipe.task).Task(resolved.task_options)
    objective = next_token.Objective(next_token.Options(), backbone, None)
    limit = min(backbone.max_positions or 2048, 2048)
    objective.encoder = task.encoder(backbone, limit, "truncate")
    return Predictor(task, backbone, objective, Reader(backbone, 4096))


def _key(teacher: Predictor, task: LanguageTask, examples: Sequence[Example], settings: dict[str, Any]) -> str:
    asked = [content_key(task.taught(example, "") or example) for example in examples]
    template = teacher.backbone.tokenizer.chat_template
    told = [fingerprint(teacher.backbone, whole=True), repr(template), repr(vars(task)), repr(settings), *asked]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


def _write(path: Path, teacher: Predictor, examples: Sequence[Example], settings: dict[str, Any]) -> None:
    """Append what is missing, some rows at a time, each time down to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    there = _read(path)
    if path.is_file():  # without a line that was torn
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in there), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        for start in range(len(there), len(examples), AT_ONCE):
            some = examples[start : start + AT_ONCE]
            for example, answer in zip(some, teacher.task.answer(teacher, some, told=True, **settings), strict=True):
                file.write(json.dumps({"source": str(example.source), **answer}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path) -> list[dict[str, Any]]:
    """The answers of a file, up to a line that was torn."""
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _kept(
    task: LanguageTask, examples: Sequence[Example], answers: Sequence[dict[str, Any]]
) -> tuple[list[Example], dict[str, int]]:
    """Rows with their answers. One that says nothing, or was cut off, would teach to say nothing, or to stop midway."""
    kept, counted = [], {"learned": 0, "empty": 0, "unfinished": 0}
    for example, answer in zip(examples, answers, strict=True):
        state = "unfinished" if not answer["finished"] else "learned" if answer["text"] else "empty"
        counted[state] += 1
        made = task.taught(example, answer["text"])
        if state == "learned" and made is not None:
            kept.append(made)
    return kept, counted
