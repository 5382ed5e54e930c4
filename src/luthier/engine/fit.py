"""The loop. There is one, it is read from top to bottom, and it knows no method, objective or task by name.

θ* = argmin E[L]: each optimizer step takes a global batch of rows, cuts it into micro-batches by a token budget, adds
up the gradient of the SUM of losses, and divides once by the global count. So micro-batches, packing and processes
change speed and memory, and never the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from luthier.engine import checkpoint
from luthier.engine.accumulate import Sums, gradient_of_sum
from luthier.engine.batching import Order
from luthier.engine.checkpoint import Checkpoint
from luthier.engine.optimizer import build, load_state_tensors, mean_and_clip, set_learning_rate, state_tensors
from luthier.engine.parallel import Processes
from luthier.engine.plan import Emit, Plan, Progress
from luthier.engine.precision import matmul_route
from luthier.engine.recovery import peak_memory_mb, stop_on_signal
from luthier.engine.schedule import learning_rate
from luthier.engine.source import Source
from luthier.models.backbone import Backbone
from luthier.models.modes import normalise, statistics, train_without_dropout
from luthier.types import Adaptation, Features, Finding, Refused

NAN_PATIENCE = 3


def fit(
    backbone: Backbone, adaptation: Adaptation, objective: Any, rows: list[Features], plan: Plan, *,
    evaluate: Callable[[], dict[str, float]] | None, emit: Emit, processes: Processes, folder: Path,
    resume: Checkpoint | None = None, source: Source | None = None,
) -> Progress:  # fmt: skip
    """Train ``adaptation.parameters``; return how it went, with the best (or last) weights in the model.

    ``folder`` is where checkpoints go; ``resume`` is the one to go on from. A ``source`` makes the rows that are
    learned from those that are drawn.

    Raises Refused when the loss is not finite for three steps running; nothing non-finite ever reaches the weights.
    """
    model, parameters = backbone.model, adaptation.parameters
    choose(model, adaptation)
    optimizer = build(parameters, plan.learning_rate, plan.weight_decay, adaptation.rates)
    progress = _resume(resume, adaptation, optimizer, source)
    order = Order(len(rows), plan.batch_size, plan.seed, plan.data_hash, plan.mixture)
    began = time.monotonic() - progress.seconds
    train_mode(backbone, adaptation)  # what evaluates or writes between steps leaves every module as it was

    with stop_on_signal() as stop, matmul_route(plan.matmul):
        while progress.step < plan.steps and not progress.stopped:
            step = progress.step
            at = partial(learning_rate, schedule=plan.schedule, step=step, total=plan.steps, warmup=plan.warmup)
            set_learning_rate(optimizer, at)
            if adaptation.batch_norms:  # a micro-batch of one number a channel turned some off (`keep_alone`)
                normalise(model, adaptation.batch_norms)
            moving = statistics(adaptation.batch_norms)
            before = {name: tensor.clone() for name, tensor in moving.items()}
            learned = _learned(step, order, rows, source)
            sums = gradient_of_sum(backbone, objective, learned, plan, progress, processes, emit)
            if source is not None:
                sums.report |= source.report
            norm = mean_and_clip(parameters.values(), sums.count, adaptation.penalty, plan.max_grad_norm)

            if math.isfinite(norm) and math.isfinite(sums.total):
                optimizer.step()
                if adaptation.after_step is not None:
                    adaptation.after_step(step + 1)
                progress.skipped = 0
            else:
                for name, tensor in moving.items():
                    tensor.copy_(before[name])
                _not_finite(step, sums, [row["row"] for row in learned], progress, emit)
            optimizer.zero_grad(set_to_none=True)

            progress.step = step + 1
            progress.tokens += sums.tokens
            progress.seconds = time.monotonic() - began
            emit(_record(progress, sums, at(plan.learning_rate), norm, backbone))

            last = progress.step == plan.steps
            if evaluate and (progress.step % plan.eval_every == 0 or last):
                _judge(evaluate(), plan, progress, emit)
            if any(processes.sum(float(bool(stop)))) and not progress.stopped:
                progress.stopped = stop.signal or "SIGTERM"  # another process was asked
            if progress.step % plan.save_every == 0 or last or progress.stopped or progress.best_step == progress.step:
                _save(folder, plan, adaptation, optimizer, progress, processes, source)

    if plan.final == "best" and progress.best_step and not progress.stopped.startswith("SIG"):
        _load_best(folder, plan, adaptation, progress)
    return progress


def _learned(step: int, order: Order, rows: list[Features], source: Source | None) -> list[Features]:
    """The rows of a step, each with its epoch: those that are drawn, or what a source makes of them."""
    if source is None:
        return [rows[i] | {"epoch": step // order.steps_per_epoch} for i in order.step(step)]
    return source.rows(step, [rows[i] for i in order.step(step // source.repeats)])


def choose(model: torch.nn.Module, adaptation: Adaptation) -> None:
    """The one place that sets ``requires_grad``: the chosen parameters, by identity, and no others. They are fp32."""
    chosen = {id(parameter) for parameter in adaptation.parameters.values()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
        if id(parameter) in chosen:
            parameter.data = parameter.data.float()


def trunk_is_frozen(backbone: Backbone, adaptation: Adaptation) -> bool:
    """Whether nothing that trains lies in the trunk, so that its hidden states never change."""
    inside = {id(parameter) for parameter in backbone.trunk_parameters()}
    return inside.isdisjoint(id(parameter) for parameter in adaptation.parameters.values())


def train_mode(backbone: Backbone, adaptation: Adaptation) -> None:
    """Dropout on where something trains and it is wanted; a wholly frozen trunk gives its plain hidden states."""
    if backbone.dropout:
        backbone.model.train()
    else:
        train_without_dropout(backbone.model)
    normalise(backbone.model, adaptation.batch_norms)
    if trunk_is_frozen(backbone, adaptation):
        backbone.trunk.eval()


def _not_finite(step: int, sums: Sums, rows: list[int], progress: Progress, emit: Emit) -> None:
    progress.skipped += 1
    rows = sorted(sums.bad_rows or rows)
    where = f"the {'loss' if sums.bad_rows else 'gradient'} of rows {rows}"
    text = f"not finite in step {step + 1}: {where}; the step was skipped and no weight changed"
    emit({"step": step + 1, "kind": "event", "event": "nan", "text": text, "rows": rows})
    if progress.skipped >= NAN_PATIENCE:
        what = f"the loss or gradient was not finite for {NAN_PATIENCE} steps running (last: {where})"
        mend = "look at the rows named in metrics.jsonl, lower learning_rate, or use `precision: fp32`"
        raise Refused(Finding("train.not-finite", f"step {step + 1}", what, mend))


def _record(progress: Progress, sums: Sums, rate: float, norm: float, backbone: Backbone) -> dict[str, Any]:
    watched = {name: value / count for name, (value, count) in sums.report.items() if count}
    return {
        "step": progress.step,
        "kind": "train",
        "loss": sums.total / max(sums.count, 1e-12),
        **watched,
        "learning_rate": rate,
        "grad_norm": norm,
        "tokens": sums.tokens,
        "rows": sums.rows,
        "tokens_per_s": round(progress.tokens / max(progress.seconds, 1e-9), 1),
        "memory_mb": peak_memory_mb(backbone.device),
        "seconds": round(progress.seconds, 3),
    }


def _judge(metrics: dict[str, float], plan: Plan, progress: Progress, emit: Emit) -> None:
    """Keep the best; stop when it has not improved for ``patience`` evaluations."""
    emit({"step": progress.step, "kind": "eval", **metrics})
    progress.history.append({"step": progress.step, **metrics})
    value = metrics[plan.metric]
    better = progress.best is None or (value > progress.best if plan.higher_is_better else value < progress.best)
    if better and math.isfinite(value):
        progress.best, progress.best_step, progress.stale = value, progress.step, 0
    else:
        progress.stale += 1
    if plan.patience and progress.stale >= plan.patience:
        progress.stopped = f"{plan.metric} has not improved for {progress.stale} evaluations"


def _save(
    folder: Path,
    plan: Plan,
    adaptation: Adaptation,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    processes: Processes,
    source: Source | None,
) -> None:
    if processes.main:
        tensors = {
            "parameters": {name: p.detach() for name, p in adaptation.parameters.items()},
            "optimizer": state_tensors(optimizer, adaptation.parameters),
        }
        if adaptation.state:
            tensors["method"] = adaptation.state
        if source is not None and (held := source.state(progress.step)):
            tensors["source"] = held
        state = {key: value for key, value in vars(progress).items() if key != "stopped" or not value.startswith("SIG")}
        checkpoint.save(folder, progress.step, tensors=tensors, state=state, recipe_hash=plan.recipe_hash)
        checkpoint.rotate(folder, plan.keep, progress.best_step or None, plan.recipe_hash)
    processes.barrier()


def _resume(
    found: Checkpoint | None, adaptation: Adaptation, optimizer: torch.optim.Optimizer, source: Source | None
) -> Progress:
    if found is None:
        return Progress()
    if source is not None and (held := found.tensors("source")):
        source.restore(found.step, held)
    _restore(adaptation, found)
    load_state_tensors(optimizer, adaptation.parameters, found.tensors("optimizer"))
    return Progress(**found.state)


def _load_best(folder: Path, plan: Plan, adaptation: Adaptation, progress: Progress) -> None:
    if progress.best_step == progress.step:
        return
    found, findings = checkpoint.latest(folder, plan.recipe_hash, step=progress.best_step)
    if found is None:
        raise Refused(*findings)
    _restore(adaptation, found)


@torch.no_grad()
def _restore(adaptation: Adaptation, found: Checkpoint) -> None:
    tensors = found.tensors("parameters")
    for name, parameter in adaptation.parameters.items():
        parameter.copy_(tensors[name])
    kept = found.tensors("method") if adaptation.state else {}
    for name, tensor in adaptation.state.items():
        tensor.copy_(kept[name])
