"""From a recipe to the first step: read, study, load, encode, adapt, check. All that is wrong is told at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from luthier.data.encode import Encoded, encode
from luthier.data.formats import ReadResult, read_examples
from luthier.data.split import content_key, duplicates, split
from luthier.methods import METHODS
from luthier.models.backbone import Backbone
from luthier.models.load import load, locate
from luthier.objectives import OBJECTIVES
from luthier.recipe import ResolvedRecipe
from luthier.tasks import TASKS
from luthier.types import Adaptation, Example, Finding, Refused

EVAL_SHARE = 0.1
# Below this many rows an automatic evaluation split would say nothing.
SMALLEST_TO_SPLIT = 40
MICRO_TOKENS = {"cpu": 4096, "cuda": 16384}


@dataclass
class Prepared:
    """A run that could begin: what the checks look at, and what the engine is given."""

    resolved: ResolvedRecipe
    task: Any
    backbone: Backbone
    objective: Any
    adaptation: Adaptation
    train: Encoded
    evaluation: Encoded
    data: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]


@dataclass
class Rows:
    """The examples of both sides, and how reading went."""

    train: list[Example]
    evaluation: list[Example]
    findings: list[Finding]
    report: dict[str, Any]


def prepare(resolved: ResolvedRecipe, device: Any, told: list[Finding] | None = None) -> Prepared:
    """Raises Refused with everything found so far where it can't go on; else ``Prepared`` with all findings."""
    from luthier.checks import run_checks

    recipe = resolved.recipe
    findings = list(told or [])
    task = TASKS.load(recipe.task).Task(resolved.task_options)
    _defaults(resolved)
    rows = read_rows(resolved, task)
    findings += rows.findings
    studied = task.study(rows.train, rows.evaluation) if rows.train else []
    findings += studied
    path, missing = locate(recipe.model.name, resolved.base)
    findings += missing
    if (
        missing
        or not rows.train
        or any(finding.code != "data.unknown-label" and finding.severity == "error" for finding in studied)
    ):
        raise Refused(*findings)

    try:
        backbone, objective = _model(resolved, task, path, device)
    except Refused as refused:
        raise Refused(*findings, *refused.findings) from None
    limit = _limit(resolved, backbone)
    policy = recipe.overlong or "truncate"
    objective.encoder = task.encoder(backbone, limit, policy)
    train = encode(objective, rows.train, limit, policy, "data.train")
    known = [example for example in rows.evaluation if not _unknown_to(task, example)]
    evaluation = encode(objective, known, limit, policy, "data.eval")
    findings += train.findings + evaluation.findings
    if not train.rows:
        raise Refused(
            *findings, Finding("data.empty", "data.train", "no row is left to train on", "mend the rows above")
        )
    try:
        adaptation = _adapt(resolved, backbone)
    except Refused as refused:
        raise Refused(*findings, *refused.findings) from None
    _report(rows.report, train, evaluation)
    prepared = Prepared(resolved, task, backbone, objective, adaptation, train, evaluation, rows.report, findings)
    _resolve_steps(prepared, device)
    prepared.findings += run_checks(prepared)
    return prepared


def read_rows(resolved: ResolvedRecipe, task: Any) -> Rows:
    """Both sides of the data: files as given, or a share of train split off by content."""
    data = resolved.recipe.data
    paths = [data.train] if isinstance(data.train, str) else data.train
    read = read_examples(paths, base=resolved.base, columns=data.columns or None, fmt=data.format)
    findings = _bad_rows(read, data, task, "data.train")
    report: dict[str, Any] = {"train": _told(read, paths)}
    train = read.examples
    if isinstance(data.eval, str | list):
        eval_paths = [data.eval] if isinstance(data.eval, str) else data.eval
        other = read_examples(eval_paths, base=resolved.base, columns=data.columns or None, fmt=data.format)
        findings += _bad_rows(other, data, task, "data.eval")
        report["eval"] = _told(other, eval_paths)
        evaluation = other.examples
    else:
        share = data.eval if data.eval is not None else EVAL_SHARE if len(train) >= SMALLEST_TO_SPLIT else 0.0
        train, evaluation = split(train, share, resolved.recipe.seed) if share else (train, [])
        report["eval"] = {"files": [f"{share:.0%} of train, by content hash"] if share else [], "read": len(evaluation)}
        report["train"]["split_off"] = len(evaluation)
    if data.on_leak == "drop":
        train = _without_leaks(train, evaluation, report)
    return Rows(train, evaluation, findings + duplicates(train, evaluation), report)


def _without_leaks(train: list[Example], evaluation: list[Example], report: dict[str, Any]) -> list[Example]:
    held_out = {content_key(example) for example in evaluation}
    kept = [example for example in train if content_key(example) not in held_out]
    if len(kept) < len(train):
        report["train"]["skipped"]["also in eval"] = len(train) - len(kept)
    return kept


def _bad_rows(read: ReadResult, data: Any, task: Any, where: str) -> list[Finding]:
    """With `on_bad_row: skip` bad rows are counted warnings, up to the cap; another task's format is an error."""
    findings, bad = list(read.findings), bad_row_count(read)
    if read.format and not set(read.format.split(" + ")) <= set(task.formats):
        what = f"these rows are `{read.format}`; this task takes {', '.join(task.formats)}"
        mend = "choose another task, or map the columns with `data.columns`"
        findings.append(Finding("task.format", where, what, mend))
        read.examples.clear()
    if data.on_bad_row == "skip" and bad:
        if bad > data.max_bad_rows:
            what = f"{bad} bad rows are more than `data.max_bad_rows: {data.max_bad_rows}`"
            return [*findings, Finding("data.too-many-bad", where, what, "mend the file, or raise the cap")]
        return [_as_warning(finding) if finding.where.count(":") else finding for finding in findings]
    return findings


def bad_row_count(read: ReadResult) -> int:
    return read.rows_read - len(read.examples)


def _as_warning(finding: Finding) -> Finding:
    return Finding(finding.code, finding.where, finding.what, finding.mend, finding.why, "warning")


def _told(read: ReadResult, paths: list[Any]) -> dict[str, Any]:
    files = [path if isinstance(path, str) else path["path"] for path in paths]
    bad = bad_row_count(read)
    return {"files": files, "format": read.format, "read": read.rows_read, "skipped": {"bad row": bad} if bad else {}}


def _report(report: dict[str, Any], train: Encoded, evaluation: Encoded) -> None:
    for side, encoded in (("train", train), ("eval", evaluation)):
        skipped = {**report[side].get("skipped", {}), **encoded.skipped}
        report[side] |= {"used": len(encoded.examples), "skipped": skipped}
        report[side] |= {"tokens": encoded.tokens, "longest": encoded.longest}
    labels: dict[str, int] = {}
    for example in train.examples:
        for label in example.label if isinstance(example.label, list) else [example.label]:
            if isinstance(label, str | int) and len(labels) < 200:
                labels[str(label)] = labels.get(str(label), 0) + 1
    report["labels"] = labels


def _unknown_to(task: Any, example: Example) -> bool:
    labels = task.labels
    names = example.label if isinstance(example.label, list) else [example.label]
    return bool(labels) and not isinstance(example.label, float) and any(str(name) not in labels for name in names)


def _defaults(resolved: ResolvedRecipe) -> None:
    """What the task and the method would choose, where the recipe is silent."""
    for origin, module in (
        ("method", METHODS.load(resolved.recipe.method)),
        ("task", TASKS.load(resolved.recipe.task)),
    ):
        for key, value in module.DEFAULTS.items():
            if key not in resolved.origins and f"{key}" in type(resolved.recipe).model_fields:
                resolved.set(key, value, origin)


def _model(resolved: ResolvedRecipe, task: Any, path: str, device: Any) -> tuple[Backbone, Any]:
    from luthier.data.render import load_template
    from luthier.engine.precision import choose_matmul, choose_precision

    recipe = resolved.recipe
    precision, origin = choose_precision(recipe.precision, device)
    if origin != "given":
        resolved.set("precision", precision, origin)
    matmul, origin = choose_matmul(recipe.matmul, device)
    if origin != "given":
        resolved.set("matmul", matmul, origin)
    if recipe.objective is None:
        resolved.set("objective", task.objective(), "task")
    objective_module = OBJECTIVES.load(recipe.objective or task.objective())
    resolved.objective_options = resolved.objective_options or objective_module.Options()
    options = resolved.method_options
    needs = options.needs(objective_module.Objective.needs)
    # Frozen weights may be held in bf16; those that train are fp32, so a method that trains them loads them so.
    dtype = "bfloat16" if precision == "bf16" and not options.whole else "float32"
    extra = options.load_kwargs()
    backbone = load(
        recipe.model.name, path, needs, revision=recipe.model.revision, config=task.config(), dtype=dtype,
        seed=recipe.seed, **extra,
    )  # fmt: skip
    if recipe.model.template:
        load_template(backbone.tokenizer, recipe.model.template, resolved.base)
    if not extra:
        backbone.model.to(device)
    backbone.choose_layout(recipe.packing)
    if recipe.gradient_checkpointing:
        backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    return backbone, objective_module.Objective(resolved.objective_options, backbone, None)


def _limit(resolved: ResolvedRecipe, backbone: Backbone) -> int:
    """The longest row in tokens: the recipe's, else what the model's positions and its tokenizer allow."""
    allowed = [n for n in (backbone.max_positions, backbone.tokenizer.model_max_length) if n and n < 10**6]
    most = min(allowed, default=2048)
    wanted = resolved.recipe.max_length
    if wanted is None:
        resolved.set("max_length", most, "model")
        return most
    if wanted > most and resolved.origins.get("max_length") in ("task", "method"):
        resolved.set("max_length", most, "model")
        return most
    if backbone.max_positions and wanted > backbone.max_positions:
        what = f"`max_length: {wanted}` is over the {backbone.max_positions} positions of this model"
        raise Refused(Finding("recipe.value", "max_length", what, f"give at most {backbone.max_positions}"))
    return wanted


def _adapt(resolved: ResolvedRecipe, backbone: Backbone) -> Adaptation:
    import torch

    torch.manual_seed(resolved.recipe.seed)
    return METHODS.load(resolved.recipe.method).adapt(backbone, resolved.method_options)


def _resolve_steps(prepared: Prepared, device: Any) -> None:
    resolved, recipe = prepared.resolved, prepared.resolved.recipe
    batch_size = recipe.batch_size or 16
    per_epoch = math.ceil(len(prepared.train.rows) / batch_size)
    values = {
        "batch_size": batch_size,
        "learning_rate": recipe.learning_rate or 1e-4,
        "steps": recipe.steps or max(1, math.ceil(recipe.epochs * per_epoch)),
        "eval_every": recipe.eval_every or per_epoch,
        "micro_tokens": recipe.micro_tokens or MICRO_TOKENS[device.type],
        "metric": recipe.metric or prepared.task.metric,
        "final": recipe.final or ("best" if prepared.evaluation.rows else "last"),
    }
    values["save_every"] = recipe.save_every or values["eval_every"]
    for key, value in values.items():
        if getattr(recipe, key) is None:
            resolved.set(key, value, "machine" if key == "micro_tokens" else "task" if key == "metric" else "data")
