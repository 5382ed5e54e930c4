"""The teacher of a distillation: opened frozen, found to fit the student, and judged on the same rows.

A teacher is a run folder of ours, a model's folder or hub id, or `base`: the student without what its method adds,
which needs no second copy of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.models.backbone import Backbone
from luthier.models.fingerprint import fingerprint
from luthier.models.frozen import Frozen
from luthier.objectives.distill import Taught
from luthier.recipe import ResolvedRecipe
from luthier.runs.run import Run
from luthier.types import Adaptation, Example, Features, Finding, Refused

BASE = "base"
KEY = "distill.teacher"
LEFT_OUT = "leave `distill:` out to learn from the labels alone"


@dataclass
class Opened:
    """A teacher's model, and the classes that it tells apart, where it tells classes apart."""

    backbone: Backbone
    labels: list[str]


def teacher_of(objective: Any) -> Frozen | None:
    return objective.teacher if isinstance(objective, Taught) else None


def give_teacher(
    objective: Any, resolved: ResolvedRecipe, task: Any, backbone: Backbone, load: Callable[..., Any], *, sketched: bool
) -> None:
    """Open the teacher that the recipe names, for an objective that has one. ``load`` opens a model (or a sketch).

    ``base`` waits for the method: see ``bind_base``. Raises Refused with everything that does not fit.
    """
    if not isinstance(objective, Taught) or not objective.options.compares:
        return
    name = objective.options.teacher
    if name is None:
        raise Refused(Finding(KEY, "distill.teacher", "no teacher is named", f"give {KEY}: a run folder or a model"))
    if backbone.needs != objective.needs:
        what = f"`{resolved.methods.name}` fits a classifier to the labels in one go, and would never hear the teacher"
        raise Refused(Finding("distill.method", "method", what, f"use `lora` or `full`, or {LEFT_OUT}"))
    if name == BASE:
        if backbone.has_own_head:
            what = "the model as it came has no head that tells these classes apart: it can't teach them"
            raise Refused(Finding(KEY, "distill.teacher", what, "name a run folder whose model knows the classes"))
        objective.teacher = Frozen(backbone, BASE, backbone.fingerprint)
        return
    opened = _open(name, resolved, task, backbone, load, sketched=sketched)
    findings = unlike(opened, task, backbone)
    if findings:
        raise Refused(*findings)
    theirs = opened.backbone
    for parameter in theirs.model.parameters():
        parameter.requires_grad_(False)
    theirs.model.eval()
    told = "" if sketched else fingerprint(theirs, whole=True)
    objective.teacher = Frozen(theirs, name, told)
    if task.labels:
        objective.teacher.columns = [opened.labels.index(label) for label in task.labels]


def encode_for(objective: Any, task: Any, backbone: Backbone, limit: int, policy: str) -> None:
    """A classifier with another tokenizer reads ids of its own; one that sees or hears, what its processor makes."""
    teacher = teacher_of(objective)
    if teacher is None or teacher.columns is None:
        return
    theirs = teacher.backbone
    senses = theirs.pictures is not None or theirs.sounds is not None
    if not senses and backbone.reads_text and same_words(theirs, backbone):
        return
    encode = task.encoder(theirs, min(limit, theirs.max_positions or limit), policy)

    def read(example: Example) -> Features:
        return encode(example)[0]  # type: ignore[no-any-return]

    teacher.encode = read


def bind_base(objective: Any, adaptation: Adaptation) -> list[Finding]:
    """``base`` is the model without the method; a method that changes the weights themselves leaves none."""
    teacher = teacher_of(objective)
    if teacher is None or teacher.name != BASE or not adaptation.parameters:
        return []
    if adaptation.base is None:
        what = f"`{adaptation.method}` changes the weights themselves, so the model as it came is gone"
        mend = "name the model itself as `distill.teacher` (it is opened once more), or use `lora`"
        return [Finding(KEY, "distill.teacher", what, mend)]
    teacher.base = adaptation.base
    return []


def _open(
    name: str, resolved: ResolvedRecipe, task: Any, backbone: Backbone, load: Callable[..., Any], *, sketched: bool
) -> Opened:
    from luthier.models.locate import locate

    folder = next((one for one in (resolved.base / name, Path(name)) if (one / "run.json").is_file()), None)
    if folder is not None:
        return _open_run(Run(folder), backbone, load, sketched=sketched)
    path, missing = locate(name, resolved.base)
    if missing and not (sketched and (Path(path) / "config.json").is_file()):
        raise Refused(*[Finding(KEY, "distill.teacher", found.what, found.mend) for found in missing])
    dtype = "bfloat16" if resolved.recipe.precision == "bf16" else "float32"
    try:
        made = load(name, path, backbone.needs, dtype=dtype)
    except Refused as refused:
        raise Refused(*[Finding(KEY, "distill.teacher", one.what, one.mend) for one in refused.findings]) from None
    if not sketched:
        made.place(backbone.device)
    made.choose_layout(resolved.recipe.packing)
    if backbone.has_own_head and any(name in made.fresh for name in made.head_parameters()):
        what = f"{name} has no trained head that tells classes apart"
        mend = "tune it on these rows first, and name that run's folder"
        raise Refused(Finding(KEY, "distill.teacher", what, mend))
    return Opened(made, _labels(made.model.config.id2label) if backbone.has_own_head else [])


def _open_run(run: Run, backbone: Backbone, load: Callable[..., Any], *, sketched: bool) -> Opened:
    """The final model of a finished run. A sketch of it is its base's: what an adapter adds is small."""
    if not (run.folder / "final").is_dir():
        what, mend = f"the run {run.folder} is {run.info['status']}", "let it finish: run its command again"
        raise Refused(Finding(KEY, "distill.teacher", what, mend))
    final = run.folder / "final"
    if not sketched:
        predictor = run.predictor
        found = predictor.backbone
        if found.needs != backbone.needs or predictor.solved is not None:
            what = f"the run {run.folder} ({run.info['task']}, {run.info['method']}) gives no logits of this kind"
            raise Refused(Finding(KEY, "distill.teacher", what, "name a run of the same task, by a method that trains"))
        return Opened(found, [str(label) for label in predictor.task.labels])
    config = json.loads((final / "config.json").read_text(encoding="utf-8"))
    labels = _labels(config.get("id2label") or {}) if backbone.has_own_head else []
    known = {"num_labels": len(labels)} if labels else {}
    path = str(final) if run.info.get("opens_with") == "transformers" else run.info["model"]["path"]
    made = load(run.info["model"]["name"], path, backbone.needs, config=known)
    made.choose_layout(run.resolved.recipe.packing)
    return Opened(made, labels)


def _labels(names: dict[Any, str]) -> list[str]:
    return [str(names[at]) for at in sorted(names, key=int)]


def same_words(teacher: Backbone, student: Backbone) -> bool:
    """Whether each token of the student's tokenizer has the same id in the teacher's."""
    theirs, ours = teacher.tokenizer.get_vocab(), student.tokenizer.get_vocab()
    return all(theirs.get(token) == at for token, at in ours.items())


def unlike(opened: Opened, task: Any, student: Backbone) -> list[Finding]:
    """What of a teacher does not fit: its classes, its vocabulary, its kind."""
    theirs = opened.backbone
    if student.has_own_head:
        return _other_classes(opened.labels, task)
    if theirs.encoder_decoder != student.encoder_decoder:
        what = "one of teacher and student is an encoder-decoder and the other is not: their rows differ"
        mend = "take a teacher of the same kind, or let it write what is learned (`distill.answers: true`)"
        return [Finding("distill.kind", "distill.teacher", what, mend)]
    ours, known = student.tokenizer.get_vocab(), theirs.tokenizer.get_vocab()
    other = [token for token, at in ours.items() if known.get(token) != at]
    mend = "take a teacher with this tokenizer, or let it write what is learned (`distill.answers: true`)"
    why = "logits are compared id by id, so that each id must mean the same token"
    if other:
        what = f"{len(other):,} of the student's {len(ours):,} tokens have another id, or none, at the teacher"
        what += f" (first: {other[0]!r})"
        return [Finding("distill.vocabulary", "distill.teacher", what, mend, why)]
    widths = [one.model.get_output_embeddings().weight.shape[0] for one in (theirs, student)]
    highest = max(ours.values())
    if widths[0] != widths[1] and min(widths) <= highest:
        what = (
            f"the heads give {widths[0]:,} and {widths[1]:,} logits, fewer than the tokenizer's {highest + 1:,} tokens"
        )
        return [Finding("distill.vocabulary", "distill.teacher", what, mend, why)]
    return []


def _other_classes(labels: list[str], task: Any) -> list[Finding]:
    missing = sorted(set(task.labels) - set(labels))
    more = sorted(set(labels) - set(task.labels))
    if not missing and not more:
        return []
    parts = [
        f"{said} {', '.join(map(repr, names[:5]))}" for said, names in (("lacks", missing), ("also has", more)) if names
    ]
    what = f"the teacher's classes are others: it {' and '.join(parts)}"
    return [Finding("distill.classes", "distill.teacher", what, "name a teacher that was tuned on the same labels")]
