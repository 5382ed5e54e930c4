"""From a recipe to the first step: read, study, load, encode, adapt, check. All that is wrong is told at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.checks import run_checks
from luthier.checks.settings import check_settings
from luthier.data.encode import encode
from luthier.engine.coupled import own_parameters
from luthier.engine.precision import choose_precision
from luthier.evaluate.outputs import MICRO_TOKENS
from luthier.methods import METHODS
from luthier.methods.by_role import ByRole
from luthier.methods.combine import Methods
from luthier.methods.common import LEAST_ROOM
from luthier.models.backbone import Backbone
from luthier.models.joined.compose import Towers
from luthier.models.load import load
from luthier.models.locate import locate
from luthier.models.probes import head_problem
from luthier.objectives import OBJECTIVES, objective_class
from luthier.recipe import ResolvedRecipe
from luthier.runs.augmenting import check_augmenting, give_augment
from luthier.runs.beside.answers import with_answers
from luthier.runs.beside.critic import give_value
from luthier.runs.beside.reference import bind_reference
from luthier.runs.beside.scoring import digest, open_scores
from luthier.runs.beside.teacher import bind_base, encode_for, give_teacher
from luthier.runs.composing import locate_model
from luthier.runs.mixing import give_mixture
from luthier.runs.normalising import choose_statistics
from luthier.runs.online.rollouts import check_rollouts, judged_by, repeats
from luthier.runs.pixels import settle_backend
from luthier.runs.prepared import Prepared
from luthier.runs.rows import Rows, decode, read_rows, tell
from luthier.runs.sampling import read_prompts
from luthier.runs.sharing import settle_sharing
from luthier.tasks import TASKS
from luthier.tasks.common import Meets
from luthier.types import Adaptation, Finding, Refused

NOTHING = Finding("data.empty", "data.train", "no row is left to train on", "mend the rows above, or give other ones")


@dataclass(frozen=True)
class Means:
    """How a model is found, opened and checked: with its weights, or (for a plan) without."""

    locate: Callable[..., Any] = locate
    load: Callable[..., Any] = load
    checks: Callable[[Prepared], list[Finding]] = run_checks
    precision: Callable[..., tuple[str, str]] = choose_precision
    weights: bool = True
    writes: bool = True
    """Whether a teacher writes the answers that are learned: a check and a plan do without."""
    towers: Towers | None = None
    scratch: Path | None = None
    """How the towers of a composed model are opened, and where one that is but a sketch is put."""


REAL = Means()
BY_METHOD = ("method", "method, task")
"""Whence a learning rate is that nobody gave."""


def prepare(resolved: ResolvedRecipe, device: Any, told: list[Finding] | None = None, means: Means = REAL) -> Prepared:
    """Raises Refused with everything found so far where it can't go on; else ``Prepared`` with all findings."""
    recipe = resolved.recipe
    task = TASKS.load(recipe.task).Task(resolved.task_options)
    _defaults(resolved)
    rows = read_rows(resolved, task)
    findings = [*(told or []), *rows.findings]
    studied = task.study([*rows.train, *rows.selection], rows.evaluation) if rows.train else []
    prompts, unasked = read_prompts(resolved, task)
    findings += studied + check_settings(resolved, task, rows) + unasked
    if not any(finding.severity == "error" for finding in findings):
        rows = _answered(resolved, task, rows, device, findings, means)
    path, missing = locate_model(resolved, means.locate, means.towers, means.scratch)
    findings += missing
    if (
        missing
        or not rows.train
        or any(finding.code != "data.unknown-label" and finding.severity == "error" for finding in studied)
    ):
        if not any(finding.severity == "error" for finding in findings):  # rows that are all in eval, and dropped
            findings.append(NOTHING)
        raise Refused(*findings)

    try:
        backbone, objective = _model(resolved, task, path, device, means)
    except Refused as refused:
        raise Refused(*findings, *refused.findings) from None
    limit = _limit(resolved, backbone, findings)
    policy = recipe.overlong or "truncate"
    objective.encoder = task.encoder(backbone, limit, policy)
    encode_for(objective, task, backbone, limit, policy)
    judged_by(objective, task, backbone)
    decode(backbone, rows)
    skip = recipe.data.max_bad_rows if recipe.data.on_bad_row == "skip" else None
    train = encode(objective, rows.train, limit, policy, "data.train", skip)
    known = [example for example in rows.evaluation if not task.unknown([example])]
    evaluation = encode(objective, known, limit, policy, "data.eval", skip)
    selection = encode(objective, rows.selection, limit, policy, "data.select", skip)
    for encoded in (train, evaluation, selection):
        findings += [found for found in encoded.findings if found not in findings]
    if not train.rows:
        raise Refused(*findings, NOTHING)
    _resolve_steps(resolved, task, objective, len(train.rows), bool(selection.rows or evaluation.rows), device)
    adaptation = _adapt(resolved, backbone, findings)
    adaptation, unfit = give_value(objective, adaptation, resolved, means.load, sketched=not means.weights)
    findings += unfit + open_scores(task, resolved, backbone)
    findings += bind_base(objective, adaptation) + bind_reference(objective, adaptation, str(recipe.objective))
    findings += check_rollouts(objective, adaptation, resolved, means.weights)
    _with_own(adaptation, objective)
    tell(rows.report, train, evaluation, task.labels)
    prepared = Prepared(
        resolved, task, backbone, objective, adaptation, train, evaluation, rows.report, findings, selection,
        prompts=prompts, beneath=digest(task, resolved),
    )  # fmt: skip
    give_mixture(prepared)
    prepared.findings += choose_statistics(prepared) + check_augmenting(prepared)
    prepared.findings += settle_sharing(prepared) + means.checks(prepared)
    return prepared


def _answered(
    resolved: ResolvedRecipe, task: Any, rows: Rows, device: Any, findings: list[Finding], means: Means
) -> Rows:
    """Training rows whose targets a teacher wrote, where the recipe wants it; how many is told in the report."""
    try:
        train, told, notes = with_answers(resolved, task, rows.train, device, write=means.writes)
    except Refused as refused:
        raise Refused(*findings, *refused.findings) from None
    findings += notes
    if told is not None:
        rows.report["train"]["answers"] = told
    return replace(rows, train=train)


def _defaults(resolved: ResolvedRecipe) -> None:
    """What the task and the method would choose, where the recipe is silent."""
    for origin, defaults in (
        ("method", resolved.methods.defaults),
        ("task", TASKS.load(resolved.recipe.task).DEFAULTS),
    ):
        for key, value in defaults.items():
            if key not in resolved.origins and key in type(resolved.recipe).model_fields:
                resolved.set(key, value, origin)
    part = TASKS.load(resolved.recipe.task).DEFAULTS.get("learning_rate_factor")
    if part is not None and resolved.origins.get("learning_rate") == "method":
        resolved.set("learning_rate", part * float(resolved.recipe.learning_rate or 0), BY_METHOD[1])


def _model(resolved: ResolvedRecipe, task: Any, path: str, device: Any, means: Means) -> tuple[Backbone, Any]:
    from luthier.data.text.render import fix_options, load_template
    from luthier.engine.precision import choose_matmul

    recipe = resolved.recipe
    precision = means.precision(recipe.precision, device)
    for key, (value, origin) in {"precision": precision, "matmul": choose_matmul(recipe.matmul, device)}.items():
        if origin != "given":
            resolved.set(key, value, origin)
    if isinstance(task, Meets):
        task.meet(path)
    if recipe.objective is None:
        resolved.set("objective", task.objective(), "task")
    name = recipe.objective or task.objective()
    kind = objective_class(name, task.objective())
    resolved.objective_options = resolved.objective_options or OBJECTIVES.load(name).Options()
    methods = resolved.methods
    needs = methods.needs(kind.needs)
    # Frozen weights may be held in bf16; those that train are fp32, so a method that trains them loads them so.
    dtype = "bfloat16" if precision[0] == "bf16" and not methods.whole else "float32"
    extra = methods.load_kwargs()
    backbone = means.load(
        recipe.model.name, path, needs, revision=recipe.model.revision, config=task.config(), dtype=dtype,
        seed=recipe.seed, init=recipe.model.init, image_backend=recipe.image_backend, **extra,
    )  # fmt: skip
    settle_backend(resolved, backbone)
    if needs == "token_logits" and not backbone.causal:
        what = f"in {recipe.model.name} every token sees those after it, so it can't learn to write the next one"
        mend = "choose a decoder (such as Llama, Qwen or GPT-2), or use this model with `task: classify`"
        raise Refused(Finding("model.not-causal", "model.name", what, mend))
    if needs == "token_logits" and backbone.encoder_decoder and not task.writes_from_source:
        what = f"{recipe.model.name} writes a target from a source, and the rows of `{recipe.task}` are one text"
        mend = "use `task: summarize` with documents and what is to be written of each, or choose a decoder"
        raise Refused(Finding("model.encoder-decoder", "model.name", what, mend))
    if needs == "token_logits" and (problem := head_problem(backbone)):
        what = f"the head of {recipe.model.name} asks for more than hidden states ({problem})"
        mend = "choose a model of another family, such as T5, BART, Pegasus or a decoder"
        raise Refused(Finding("model.head", "model.name", what, mend))
    if recipe.model.template:
        load_template(backbone.tokenizer, recipe.model.template, resolved.base)
    fix_options(backbone.tokenizer, recipe.model.template_options)
    if not extra:
        backbone.place(device)
    backbone.choose_layout(recipe.packing)
    give_augment(resolved, backbone)
    if recipe.gradient_checkpointing:
        backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    objective = kind(resolved.objective_options, backbone, None)
    give_teacher(objective, resolved, task, backbone, means.load, sketched=not means.weights)
    return backbone, objective


def _limit(resolved: ResolvedRecipe, backbone: Backbone, findings: list[Finding]) -> int:
    """The longest row in tokens: the recipe's, else what the model's positions and its tokenizer allow."""
    positions = backbone.max_positions
    if positions and (taken := resolved.methods.positions(backbone)):
        positions = max(positions - taken, LEAST_ROOM)  # with less the method refuses, and the other checks still run
    allowed = [n for n in (positions, backbone.tokenizer.model_max_length) if n and n < 10**6]
    most = min(allowed, default=2048)
    wanted = resolved.recipe.max_length
    if wanted is None:
        resolved.set("max_length", most, "model")
        return most
    if wanted > most and resolved.origins.get("max_length") in ("task", "method"):
        resolved.set("max_length", most, "model")
        return most
    if positions and wanted > positions:
        left = "" if positions == backbone.max_positions else "that the method leaves "
        what = f"`max_length: {wanted}` is over the {positions} positions {left}of this model"
        findings.append(Finding("recipe.value", "max_length", what, f"give at most {positions}"))
        return most
    return wanted


def _adapt(resolved: ResolvedRecipe, backbone: Backbone, findings: list[Finding]) -> Adaptation:
    """Where the method refuses, one that trains nothing: the checks that need none still run."""
    import torch

    torch.manual_seed(resolved.recipe.seed)
    resolved.methods.lasting(int(resolved.recipe.steps or 0))
    try:
        if isinstance(resolved.methods, ByRole):
            _address(resolved, resolved.methods, backbone)
            findings += resolved.methods.notes
        return resolved.methods.adapt(backbone)
    except Refused as refused:
        findings += refused.findings
        return Adaptation(resolved.methods.name, {}, lambda folder: None)


def _address(resolved: ResolvedRecipe, methods: ByRole, backbone: Backbone) -> None:
    """Each role meets its part of the model. The recipe's own learning rate is that of roles without one."""
    given = resolved.recipe.learning_rate if resolved.origins.get("learning_rate") not in BY_METHOD else None
    part = TASKS.load(resolved.recipe.task).DEFAULTS.get("learning_rate_factor", 1.0)
    methods.resolve(
        backbone, lambda: Methods({"freeze": METHODS.load("freeze").Options()}), lambda own: given or part * own
    )
    if given is None:
        rates = [tower.learning_rate for tower in methods.towers.values() if tower.learning_rate is not None]
        resolved.set("learning_rate", max(rates), "method")
    resolved.set("method", methods.told(), resolved.origins.get("method", "given"))


def _with_own(adaptation: Adaptation, objective: Any) -> None:
    """What the objective itself learns, such as a temperature, trains with what the method chose.

    Where that is a parameter of the model it is the objective's: no method chooses it.
    """
    if not objective.couples:
        return
    own = own_parameters(objective)
    taken = {id(parameter) for parameter in (*own.values(), *objective.held)}
    chosen = {name: p for name, p in adaptation.parameters.items() if id(p) not in taken}
    adaptation.parameters = chosen | {f"objective.{name}": p for name, p in own.items()}
    before = adaptation.after_step

    def after_step(step: int) -> None:
        if before is not None:
            before(step)
        objective.after_step()

    adaptation.after_step = after_step


def _resolve_steps(resolved: ResolvedRecipe, task: Any, objective: Any, rows: int, choosing: bool, device: Any) -> None:
    """What follows from the number of training rows; ``choosing``: whether there are rows to choose a checkpoint on."""
    recipe = resolved.recipe
    batch_size = recipe.batch_size or 16
    per_epoch = math.ceil(rows / batch_size) * repeats(objective)
    values = {
        "batch_size": batch_size,
        "learning_rate": recipe.learning_rate or 1e-4,
        "steps": recipe.steps or max(1, math.ceil(recipe.epochs * per_epoch)),
        "eval_every": recipe.eval_every or per_epoch,
        "micro_tokens": recipe.micro_tokens or MICRO_TOKENS[device.type],
        "metric": recipe.metric or task.metric,
        "final": recipe.final or ("best" if choosing else "last"),
    }
    values["save_every"] = recipe.save_every or values["eval_every"]
    for key, value in values.items():
        if getattr(recipe, key) is None:
            resolved.set(key, value, "machine" if key == "micro_tokens" else "task" if key == "metric" else "data")
