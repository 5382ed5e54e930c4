"""The training of a prepared run: the loop, or a fit in one go; what a frozen trunk computes is computed once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.engine import checkpoint
from luthier.engine.cache import cached, cached_once, content_key, rows_hash
from luthier.engine.fit import fit, trunk_is_frozen
from luthier.engine.parallel import Processes
from luthier.engine.plan import Plan
from luthier.engine.schedule import warmup_steps
from luthier.models.joined.dual import DualBackbone
from luthier.models.joined.multimodal import MultimodalBackbone
from luthier.models.stacks import stacks
from luthier.objectives.sequence import SequenceObjective
from luthier.reports.console import Console
from luthier.reports.trackers import Metrics
from luthier.runs.augmenting import augmented, augments
from luthier.runs.beside.teaching import with_logits
from luthier.runs.online.rollouts import repeats, rollouts_of
from luthier.runs.predictor import Predictor
from luthier.runs.prepared import Prepared
from luthier.runs.sampling import Sampling
from luthier.types import Features


def solve(prepared: Prepared, predictor: Predictor) -> dict[str, Any]:
    """A method without gradients: vectors once, then its own fit."""
    adaptation = prepared.adaptation
    vectors_KD = _vectors(prepared, predictor, prepared.train.rows, adaptation.pooling)
    assert adaptation.solve is not None
    predictor.solved = adaptation.solve(vectors_KD, [row["target"] for row in prepared.train.rows])
    predictor.pooling = adaptation.pooling
    return {"steps": 0, "best_step": 0, "seconds": 0.0, "stopped": ""}


def _vectors(prepared: Prepared, predictor: Predictor, rows: list[Features], pooling: str) -> Tensor:
    key = content_key(prepared.backbone.trunk, rows, "vectors", pooling, prepared.resolved.recipe.precision)
    made = cached(_cache_folder(prepared), key, lambda: [v[None] for v in predictor.reader.vectors(rows, pooling)])
    return torch.cat(made)


def _cache_folder(prepared: Prepared) -> Path:
    return Path(prepared.resolved.recipe.out) / ".cache"


def train(
    prepared: Prepared, predictor: Predictor, folder: Path, processes: Processes, console: Console
) -> dict[str, Any]:
    rows, evaluation = prepared.train.rows, prepared.choosing
    plan = _plan(prepared)
    rows = with_logits(prepared, rows, processes)
    frozen = trunk_is_frozen(prepared.backbone, prepared.adaptation)
    if frozen and not augments(prepared) and isinstance(prepared.objective, SequenceObjective):
        rows, evaluation = (_with_hidden(prepared, predictor, side, processes) for side in (rows, evaluation))
    if still := still_towers(prepared):
        predictor.alone().reader.remember(prepared.objective, all_different([*rows, *evaluation], still), still)

    found, skipped = checkpoint.latest(folder / "checkpoints", plan.recipe_hash)
    resumed = found.step if found else 0
    recipe = {key: value for key, value, _ in prepared.resolved.rows()}
    track = prepared.resolved.recipe.track
    with Metrics(folder, track, enabled=processes.main, name=folder.name, config=recipe) as metrics, console:
        metrics.resume(found.step if found else None)
        sampling = Sampling(prepared, predictor, folder, plan, enabled=processes.main)
        sampling.begin(found.step if found else None)

        def emit(record: dict[str, Any]) -> None:
            if record.get("event") == "nan":
                record |= {"sources": [str(prepared.train.examples[row].source) for row in record["rows"]]}
            metrics.write(record)
            if processes.main:
                {"train": console.step, "eval": console.evaluation, "event": console.event}[record["kind"]](record)
            if record["kind"] == "train":
                sampling.after(record["step"])

        for finding in skipped:
            emit({"step": resumed, "kind": "event", "event": "checkpoint-skipped", "text": str(finding)})
        if found:
            emit({"step": resumed, "kind": "event", "event": "resumed", "text": f"resumed after step {resumed}"})
        console.start(plan.steps, resumed)
        progress = fit(
            prepared.backbone, prepared.adaptation, prepared.objective, rows, plan,
            evaluate=(lambda: predictor.metrics(evaluation)) if evaluation else None,
            emit=emit, processes=processes, folder=folder / "checkpoints", resume=found,
            source=rollouts_of(prepared, predictor.reader, processes, emit)
            or augmented(prepared, rows, plan.batch_size),
        )  # fmt: skip
    per_epoch = math.ceil(len(rows) / plan.batch_size) * repeats(prepared.objective)
    seconds, epochs = progress.seconds, progress.step / per_epoch
    return {
        "steps": progress.step, "best_step": progress.best_step, "seconds": seconds, "stopped": progress.stopped,
        "epochs": round(epochs, 2), "tokens": progress.tokens,
    }  # fmt: skip


def still_towers(prepared: Prepared) -> set[str]:
    """The towers, by role, that are as they came while something else trains, and read the same each time: what they
    make of a picture, a sound or a text is computed once. Of two that are compared, both or none."""
    backbone = prepared.backbone
    if isinstance(backbone, DualBackbone):
        still = trunk_is_frozen(backbone, prepared.adaptation) and bool(backbone.projections)
        return {"vision", "text"} if still and not augments(prepared) else set()
    if not isinstance(backbone, MultimodalBackbone) or trunk_is_frozen(backbone, prepared.adaptation):
        return set()
    trained = {id(parameter) for parameter in prepared.adaptation.parameters.values()}
    first, text = stacks(backbone.model).values()
    towers = {} if augments(prepared) else {backbone.first_role: first}
    towers |= {"text": text} if backbone.reads_apart else {}
    return {role for role, tower in towers.items() if trained.isdisjoint(id(p) for p in tower.parameters())}


def all_different(rows: list[Features], roles: set[str]) -> list[Features]:
    """Rows enough to hold every picture, and every text, that there is."""
    seen: set[Any] = set()
    chosen = []
    for row in rows:
        held = {*row.get("pictures", ())} if roles != {"text"} else set()
        held |= {tuple(row["input_ids"])} if "text" in roles else set()
        if not held <= seen:
            chosen.append(row)
            seen |= held
    return chosen


def _with_hidden(prepared: Prepared, predictor: Predictor, rows: list[Features], processes: Processes) -> list[Any]:
    """Rows with the frozen trunk's hidden states, computed once (or found on disk)."""

    if not rows:
        return rows
    backbone, recipe = prepared.backbone, prepared.resolved.recipe
    key = content_key(backbone.trunk, rows, "hidden", backbone.reads, recipe.precision)
    reader = predictor.alone().reader
    hidden = cached_once(_cache_folder(prepared), key, lambda: reader.hidden(rows, backbone.reads), processes)
    return [row | {"hidden_LD": states_LD} for row, states_LD in zip(rows, hidden, strict=True)]


def _plan(prepared: Prepared) -> Plan:

    r: Any = prepared.resolved.recipe  # every value is resolved by now
    return Plan(
        steps=r.steps, batch_size=r.batch_size, learning_rate=r.learning_rate, schedule=r.schedule,
        warmup=warmup_steps(r.warmup, r.steps), weight_decay=r.weight_decay, max_grad_norm=r.max_grad_norm,
        micro_tokens=r.micro_tokens, eval_every=r.eval_every, save_every=r.save_every, patience=r.patience, keep=r.keep,
        seed=r.seed, metric=r.metric, higher_is_better=prepared.task.metrics[r.metric],
        precision=r.precision, matmul=r.matmul, recipe_hash=prepared.identity,
        data_hash=rows_hash(prepared.train.rows), final=r.final, mixture=prepared.mixture,
        uncut=bool(prepared.adaptation.batch_norms),
    )  # fmt: skip
