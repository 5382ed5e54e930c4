"""``luthier tune``: from a recipe to a run folder. The same command goes on where it was stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.recipe import ResolvedRecipe, read_recipe
from luthier.reports.console import Console
from luthier.run import SAMPLES, Run, describe, find_folder, write_json
from luthier.types import Finding, Refused


def read(source: Any, overrides: Sequence[str], keys: dict[str, Any]) -> tuple[ResolvedRecipe | None, list[Finding]]:
    """A recipe from a file, a dictionary or keywords."""
    if source is None:
        return read_recipe(keys, overrides)
    if keys:
        overrides = [*overrides, *(f"{key}={json.dumps(value)}" for key, value in keys.items())]
    return read_recipe(source, overrides)


def check(source: Any = None, overrides: Sequence[str] = (), **keys: Any) -> tuple[list[Finding], Any]:
    """Everything that is wrong, without a step taken: (findings, Prepared or None where it can't be prepared)."""
    from luthier.engine.parallel import Processes
    from luthier.prepare import prepare

    try:
        resolved, findings = read(source, overrides, keys)
        if resolved is None:
            return findings, None
        prepared = prepare(resolved, Processes().device, findings)
    except Refused as refused:
        return refused.findings, None
    return prepared.findings, prepared


def tune(source: Any = None, overrides: Sequence[str] = (), *, console: Console | None = None, **keys: Any) -> Run:
    """Adapt a model to a task; returns the finished run (or the one that was asked to stop).

    ``source`` is a recipe's path or a dictionary; or give its keys: ``tune(task="classify", model="starter:minilm",
    data="rows.jsonl", method="lora")``. Raises Refused, with all findings, before the first step.
    """
    from luthier.engine.checkpoint import lock
    from luthier.engine.parallel import Processes
    from luthier.prepare import prepare

    resolved, findings = read(source, overrides, keys)
    if resolved is None or findings:
        raise Refused(*findings)
    processes = Processes()
    console = (console or Console(quiet=True)) if processes.main else Console(quiet=True)
    prepared = prepare(resolved, processes.device)
    folder = Path(processes.agree(str(find_folder(resolved))))
    if (folder / "run.json").is_file() and Run(folder).finished:
        console.event(
            {
                "step": 0,
                "event": "finished",
                "text": f"this very run is finished: {folder} (change the recipe, or `out=`)",
            }
        )
        return Run(folder)
    console.recipe(resolved.rows())
    console.findings(prepared.findings)
    if prepared.errors:
        raise Refused(*prepared.findings)
    if not processes.main:
        _conduct(prepared, folder, processes, console)
        return Run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        _conduct(prepared, folder, processes, console)
    return Run(folder)


def _conduct(prepared: Any, folder: Path, processes: Any, console: Console) -> None:
    from luthier.predictor import Predictor

    reader = _reader(prepared, processes)
    predictor = Predictor(prepared.task, prepared.backbone, prepared.objective, reader)
    if processes.main:
        _open_folder(prepared, folder, processes)
    before = _before(prepared, predictor, folder, processes)
    began = time.monotonic()
    if prepared.adaptation.solve is not None:
        outcome = _solve(prepared, predictor)
    else:
        outcome = _fit(prepared, predictor, folder, processes, console)
    if str(outcome["stopped"]).startswith("SIG"):
        if processes.main:
            _status(folder, "stopped")
            console.event(
                {
                    "step": outcome["steps"],
                    "event": "stopped",
                    "text": f"{outcome['stopped']}: saved; the same command goes on",
                }
            )
        return
    outcome["seconds"] = round(outcome["seconds"] or time.monotonic() - began, 2)
    after = predictor.judged(prepared.evaluation.rows) if prepared.evaluation.rows else {}
    if processes.main:
        _finish(prepared, predictor, folder, before, after, outcome)
        console.finish(Run(folder).result, folder)
    processes.barrier()


def _reader(prepared: Any, processes: Any) -> Any:
    from luthier.evaluate.outputs import Reader

    recipe = prepared.resolved.recipe
    return Reader(
        prepared.backbone,
        micro_tokens=recipe.micro_tokens,
        precision=recipe.precision,
        matmul=recipe.matmul,
        processes=processes,
    )


def _open_folder(prepared: Any, folder: Path, processes: Any) -> None:
    info = describe(prepared.resolved, prepared.backbone, processes.device, folder)
    write_json(folder / "run.json", info)
    (folder / "recipe.yaml").write_text(prepared.resolved.to_yaml(), encoding="utf-8")


def _status(folder: Path, status: str) -> None:
    info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    write_json(folder / "run.json", info | {"status": status})


def _before(prepared: Any, predictor: Any, folder: Path, processes: Any) -> dict[str, Any]:
    """Metrics and answers of the model as it came; made once, and kept for when the run goes on."""
    path = folder / "before.json"
    known = processes.agree(path.read_text(encoding="utf-8") if path.is_file() else "")
    if known:
        return json.loads(known)
    before: dict[str, Any] = {"metrics": None, "samples": []}
    if prepared.evaluation.rows and prepared.adaptation.solve is None:
        before["metrics"] = predictor.judged(prepared.evaluation.rows)
    if processes.main:
        if prepared.adaptation.solve is None:
            before["samples"] = _alone(predictor).samples(prepared.evaluation, SAMPLES)
        write_json(path, before)
    processes.barrier()
    return before


def _alone(predictor: Any) -> Any:
    """The same predictor, not sharing its rows among processes."""
    from dataclasses import replace

    from luthier.evaluate.outputs import Reader

    old = predictor.reader
    reader = Reader(old.backbone, micro_tokens=old.micro_tokens, precision=old.precision, matmul=old.matmul)
    return replace(predictor, reader=reader)


def _solve(prepared: Any, predictor: Any) -> dict[str, Any]:
    """A method without gradients: vectors once, then its own fit."""
    adaptation = prepared.adaptation
    vectors_KD = cached_vectors(prepared, predictor, prepared.train.rows, adaptation.pooling)
    predictor.solved = adaptation.solve(vectors_KD, [row["target"] for row in prepared.train.rows])
    predictor.pooling = adaptation.pooling
    return {"steps": 0, "best_step": 0, "seconds": 0.0, "stopped": ""}


def cached_vectors(prepared: Any, predictor: Any, rows: list[Any], pooling: str) -> Any:
    import torch

    from luthier.engine.cache import cached, content_key

    key = content_key(prepared.backbone.trunk, rows, "vectors", pooling, prepared.resolved.recipe.precision)
    made = cached(_cache_folder(prepared), key, lambda: [v[None] for v in predictor.reader.vectors(rows, pooling)])
    return torch.cat(made)


def _cache_folder(prepared: Any) -> Path:
    return Path(prepared.resolved.recipe.out) / ".cache"


def _fit(prepared: Any, predictor: Any, folder: Path, processes: Any, console: Console) -> dict[str, Any]:
    from luthier.engine import checkpoint
    from luthier.engine.fit import fit, trunk_is_frozen
    from luthier.reports.trackers import Metrics

    train, evaluation = prepared.train.rows, prepared.evaluation.rows
    plan = _plan(prepared)
    if trunk_is_frozen(prepared.backbone, prepared.adaptation) and prepared.objective.needs == "sequence_logits":
        train, evaluation = (_with_hidden(prepared, predictor, rows, processes) for rows in (train, evaluation))

    found, skipped = checkpoint.latest(folder / "checkpoints", plan.recipe_hash)
    resumed = found.step if found else 0
    recipe = {key: value for key, value, _ in prepared.resolved.rows()}
    track = prepared.resolved.recipe.track
    with Metrics(folder, track, enabled=processes.main, name=folder.name, config=recipe) as metrics, console:
        metrics.resume(found.step if found else None)

        def emit(record: dict[str, Any]) -> None:
            metrics.write(record)
            if processes.main:
                {"train": console.step, "eval": console.evaluation, "event": console.event}[record["kind"]](record)

        for finding in skipped:
            emit({"step": resumed, "kind": "event", "event": "checkpoint-skipped", "text": str(finding)})
        if found:
            emit({"step": resumed, "kind": "event", "event": "resumed", "text": f"resumed after step {resumed}"})
        console.start(plan.steps, resumed)
        progress = fit(
            prepared.backbone, prepared.adaptation, prepared.objective, train, plan,
            evaluate=(lambda: predictor.metrics(evaluation)) if evaluation else None,
            emit=emit, processes=processes, folder=folder / "checkpoints", resume=found,
        )  # fmt: skip
    seconds, epochs = progress.seconds, progress.step * plan.batch_size / len(train)
    return {
        "steps": progress.step, "best_step": progress.best_step, "seconds": seconds, "stopped": progress.stopped,
        "epochs": round(epochs, 2), "tokens": progress.tokens,
    }  # fmt: skip


def _with_hidden(prepared: Any, predictor: Any, rows: list[Any], processes: Any) -> list[Any]:
    """Rows with the frozen trunk's hidden states, computed once (or found on disk)."""
    from luthier.engine.cache import cached, content_key

    if not rows:
        return rows
    backbone, recipe = prepared.backbone, prepared.resolved.recipe
    key = content_key(backbone.trunk, rows, "hidden", backbone.reads, recipe.precision)
    if processes.main:
        cached(_cache_folder(prepared), key, lambda: _alone(predictor).reader.hidden(rows, backbone.reads))
    processes.barrier()
    hidden = cached(_cache_folder(prepared), key, lambda: predictor.reader.hidden(rows, backbone.reads))
    return [row | {"hidden_LD": states_LD} for row, states_LD in zip(rows, hidden, strict=True)]


def _plan(prepared: Any) -> Any:
    from luthier.engine.cache import rows_hash
    from luthier.engine.fit import Plan
    from luthier.engine.schedule import warmup_steps

    r = prepared.resolved.recipe
    return Plan(
        steps=r.steps, batch_size=r.batch_size, learning_rate=r.learning_rate, schedule=r.schedule,
        warmup=warmup_steps(r.warmup, r.steps), weight_decay=r.weight_decay, max_grad_norm=r.max_grad_norm,
        micro_tokens=r.micro_tokens, eval_every=r.eval_every, save_every=r.save_every, patience=r.patience, keep=r.keep,
        seed=r.seed, metric=r.metric, higher_is_better=r.metric != "loss" and prepared.task.higher_is_better,
        precision=r.precision, matmul=r.matmul, recipe_hash=prepared.resolved.hash,
        data_hash=rows_hash(prepared.train.rows), final=r.final,
    )  # fmt: skip


def _finish(prepared: Any, predictor: Any, folder: Path, before: Any, after: Any, outcome: dict[str, Any]) -> None:
    """Final model, samples, result, card and report."""
    from luthier.reports.card import model_card
    from luthier.reports.html import write_report

    final = folder / "final"
    _save_final(prepared, predictor, final)
    samples = _alone(predictor).samples(prepared.evaluation, SAMPLES)
    _write_samples(folder / "samples.jsonl", before["samples"], samples)
    write_json(folder / "result.json", _result(prepared, final, before["metrics"], after, outcome))
    _status(folder, "finished")
    (final / "README.md").write_text(model_card(folder), encoding="utf-8")
    write_report(folder)


def _save_final(prepared: Any, predictor: Any, final: Path) -> None:
    prepared.adaptation.save(final)
    if predictor.solved is not None:
        predictor.solved.save(final)
    # Labels and ids live in the model's config, also where only an adapter is saved.
    for key, value in prepared.task.config().items():
        setattr(prepared.backbone.model.config, key, value)
    prepared.backbone.model.config.save_pretrained(final)
    prepared.backbone.tokenizer.save_pretrained(final)


def _write_samples(path: Path, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    lines = []
    for i, sample in enumerate(after):
        answer = sample.pop("answer")
        old = before[i]["answer"] if i < len(before) else None
        lines.append(sample | {"before": old, "after": answer, "changed": old is not None and old != answer})
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def _result(prepared: Any, final: Path, before: Any, after: Any, outcome: dict[str, Any]) -> dict[str, Any]:
    from luthier.engine.recovery import peak_memory_mb

    recipe, parameters = prepared.resolved.recipe, prepared.adaptation.parameters
    size = sum(path.stat().st_size for path in final.rglob("*") if path.is_file())
    return {
        "metric": recipe.metric,
        "higher_is_better": recipe.metric != "loss" and prepared.task.higher_is_better,
        "before": before,
        "after": after,
        "trainable": sum(p.numel() for p in parameters.values()),
        "parameters": sum(p.numel() for p in prepared.backbone.model.parameters()),
        "trained": roles_trained(prepared),
        **outcome,
        "peak_memory_mb": peak_memory_mb(prepared.backbone.device),
        "data": prepared.data,
        "findings": [vars(finding) for finding in prepared.findings],
        "final": "final",
        "size_mb": round(size / 2**20, 2),
    }


def roles_trained(prepared: Any) -> list[dict[str, Any]]:
    """How many tensors and numbers train, by role."""
    seams = prepared.backbone.seams
    linear_role = {linear.name: sorted(linear.roles & {"attention", "feed_forward"})[0] for linear in seams.linears}
    head = tuple(f"{name}." for name in seams.head)
    counts: dict[str, list[int]] = {}
    for name, parameter in prepared.adaptation.parameters.items():
        role = next((r for linear, r in linear_role.items() if name.startswith(f"{linear}.")), None)
        if role is None:
            in_head = bool(head) and name.startswith(head)
            in_embedding = bool(seams.embedding) and name.startswith(str(seams.embedding).rpartition(".")[0] + ".")
            role = "head" if in_head else "norm" if "norm" in name.lower() else "embedding" if in_embedding else "other"
        tally = counts.setdefault(role, [0, 0])
        tally[0] += 1
        tally[1] += parameter.numel()
    return [{"role": role, "tensors": tensors, "numbers": numbers} for role, (tensors, numbers) in counts.items()]
