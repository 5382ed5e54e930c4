"""The gradient of the SUM of losses over a global batch, micro-batch by micro-batch, over all processes.

An objective that couples the rows of a batch has its vectors cached instead: see ``engine/coupled.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from luthier.engine.batching import micro_batches
from luthier.engine.coupled import coupled_gradient, in_one_go, own_parameters
from luthier.engine.parallel import Processes
from luthier.engine.plan import Emit, Plan, Progress
from luthier.engine.precision import autocast
from luthier.engine.recovery import out_of_memory
from luthier.models.across import counted
from luthier.models.backbone import Backbone
from luthier.types import Batch, Features, Finding, LossTerms, Refused


@dataclass
class Sums:
    total: float = 0.0
    count: float = 0.0
    tokens: int = 0
    rows: int = 0
    report: dict[str, tuple[float, float]] = field(default_factory=dict)
    bad_rows: list[int] = field(default_factory=list)


def gradient_of_sum(
    backbone: Backbone,
    objective: Any,
    rows: list[Features],
    plan: Plan,
    progress: Progress,
    processes: Processes,
    emit: Emit,
) -> Sums:
    """Leave Σ gradients in ``.grad``. When memory runs out the micro-batch is halved and the step begins again."""
    progress.micro_tokens = progress.micro_tokens or plan.micro_tokens
    while True:
        failed, sums = False, Sums()
        try:
            sums = _accumulate(backbone, objective, rows, plan, progress, processes)
        except Exception as error:
            if not out_of_memory(error):
                raise
            if plan.uncut:  # others may wait for this process in the midst of theirs: nothing can be agreed on
                raise Refused(_uncut(len(rows), progress.step)) from None
            failed = True
        if not any(processes.sum(float(failed))):
            break
        trained = [*backbone.model.parameters(), *own_parameters(objective).values()]
        for parameter in trained:
            parameter.grad = None
        if progress.micro_tokens <= min(size(row) for row in rows):
            what = f"one row of {max(size(row) for row in rows)} tokens does not fit in memory"
            mend = "shorten rows (`max_length`), set `gradient_checkpointing: true`, or take a smaller model"
            raise Refused(Finding("machine.memory", f"step {progress.step}", what, mend))
        progress.micro_tokens = min(progress.micro_tokens, sum(size(row) for row in rows)) // 2
        text = f"out of memory: {progress.micro_tokens} tokens at a time from here on; still {len(rows)} rows a step"
        emit({"step": progress.step, "kind": "event", "event": "oom", "text": text})
    trained = [*backbone.model.parameters(), *own_parameters(objective).values()]
    processes.sum_gradients(parameter for parameter in trained if parameter.requires_grad)
    sums.total, sums.count, tokens = processes.sum(sums.total, sums.count, sums.tokens)
    sums.tokens, sums.rows = int(tokens), len(rows)
    sums.report = _together(processes.gather([sums.report]))
    if not math.isfinite(sums.total):
        sums.bad_rows = processes.gather(sums.bad_rows)
    return sums


def _uncut(rows: int, step: int) -> Finding:
    what = f"{rows} rows do not fit in memory together, and batch normalisation takes their statistics together"
    mend = "lower `batch_size`, or set `batch_norm: frozen`"
    return Finding("machine.memory", f"step {step}", what, mend)


def _accumulate(
    backbone: Backbone, objective: Any, rows: list[Features], plan: Plan, progress: Progress, processes: Processes
) -> Sums:
    sums = Sums()
    padded = backbone.layout == "padded"
    groups = (
        processes.deal(len(rows))
        if plan.uncut
        else row_groups(rows, progress.micro_tokens, padded=padded, at_least=processes.world)
    )

    def seed(index: int) -> None:
        # Dropout's draws depend on the step and the micro-batch alone: resuming or evaluating can't shift them.
        torch.manual_seed(plan.seed * 1_000_003 + progress.step * 1_009 + index)

    if objective.couples:
        terms, tokens, bad_rows = coupled_gradient(
            backbone, objective, rows, groups, seed, plan.precision, processes, out_of_memory
        )
        _add(sums, terms, tokens, bad_rows)
        return sums
    for index, group in processes.share(groups):
        some = bool(group)
        batch = objective.collate([rows[i] for i in group or [0]]).to(backbone.device)
        seed(index)
        with autocast(plan.precision, backbone.device), counted(some):
            terms = objective.loss(backbone, batch)
        if terms.total.requires_grad:
            (terms.total if some else 0 * terms.total).backward()
        if some:
            _add(sums, terms, batch.tokens, batch.rows)
    return sums


def loss_of(backbone: Backbone, objective: Any, rows: list[Features], precision: str) -> tuple[LossTerms, Batch]:
    """The loss of a few rows in one go, with its graph, and the batch that they made."""
    batch = objective.collate(rows).to(backbone.device)
    if objective.couples:
        return in_one_go(backbone, objective, rows, batch, precision), batch
    with autocast(precision, backbone.device):
        return objective.loss(backbone, batch), batch


def _together(reports: list[dict[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """What is watched, summed over processes; one without rows has nothing to add."""
    found: dict[str, tuple[float, float]] = {}
    for name, (value, count) in (one for report in reports for one in report.items()):
        old = found.get(name, (0.0, 0.0))
        found[name] = (old[0] + value, old[1] + count)
    return found


def _add(sums: Sums, terms: LossTerms, tokens: int, rows: list[int]) -> None:
    """``rows`` are those to name where the loss is not finite."""
    total = float(terms.total.detach())
    if not math.isfinite(total):
        sums.bad_rows += rows
    sums.total += total
    sums.count += terms.count
    sums.tokens += tokens
    sums.report = _together([sums.report, terms.report])


def size(row: Features) -> int:
    """Tokens of a row, source and target, and what it costs beside them, less those that are computed once though they
    stand in several of its sequences; or those of its cached hidden states."""
    if "hidden_LD" in row:
        return len(row["hidden_LD"])
    return len(row["input_ids"]) + len(row.get("target_ids", ())) + row.get("cost", 0) - row.get("spared", 0)


def row_groups(rows: Sequence[Features], budget: int, *, padded: bool, at_least: int = 1) -> list[list[int]]:
    """Micro-batches of rows, as their places; so many tokens as a row ``begins`` with are computed once for all rows of
    one id."""
    begun = [(row["row"], row["begins"]) if row.get("begins") else None for row in rows]
    return micro_batches([size(row) for row in rows], budget, padded=padded, at_least=at_least, begun=begun)
