"""``luthier plan``: what a run will take and whether it fits, from the same recipe that ``tune`` would read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from luthier.engine.precision import choose_precision
from luthier.methods.injected import copied_bytes
from luthier.models import sketch
from luthier.objectives.online import OnlineObjective
from luthier.plan import baseline, devices, disk, footprint
from luthier.plan.advice import advise
from luthier.plan.calibrate import correct
from luthier.plan.devices import Device
from luthier.plan.estimate import MEGABYTE, Estimate
from luthier.plan.memory import Footprint, weigh
from luthier.plan.time import timing
from luthier.plan.trace import Trace
from luthier.recipe import ResolvedRecipe
from luthier.runs.conduct import read
from luthier.runs.online.writing import DTYPES
from luthier.runs.prepare import Means, prepare
from luthier.runs.prepared import Prepared
from luthier.types import Finding, Refused


def plan(source: Any = None, overrides: Sequence[str] = (), *, device: str | None = None, **keys: Any) -> Estimate:
    """What ``tune`` with the same words would take, on the device found here or on the GPU that ``device`` names.

    Only the model's config and tokenizer are needed, no weights. Raises Refused with everything that is wrong.
    """
    resolved, findings = read(source, overrides, keys)
    if resolved is None:
        raise Refused(*findings)
    target = devices.named(device) if device else _here()
    found = estimate(resolved, target, findings)
    if device is None:
        correct(found, resolved, estimate)
    if not found.fits:
        found.advice = advise(found, lambda more: _again(source, [*overrides, *more], keys, found))
    return found


def _here() -> Device:
    return devices.here(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _again(source: Any, overrides: Sequence[str], keys: dict[str, Any], found: Estimate) -> Estimate | None:
    """The estimate of a changed recipe, corrected as ``found`` is, or None where the change can't be made."""
    try:
        resolved, findings = read(source, overrides, keys)
        if resolved is None or any(finding.severity == "error" for finding in findings):
            return None
        changed = estimate(resolved, found.device, findings, found.parts.get("base"))
    except Refused:
        return None
    changed.peak *= found.scale
    return changed


def estimate(
    resolved: ResolvedRecipe, device: Device, findings: list[Finding] | None = None, base: float | None = None
) -> Estimate:
    """Uncorrected. Raises Refused where the recipe, the data or the model's config can't be used.

    ``base`` is what the process itself takes, in bytes, where an estimate before this one measured it: afterwards the
    process also holds what that estimate left.
    """
    trace = Trace()
    prepared = _prepare(resolved, device, trace, list(findings or []))
    if prepared.errors:
        raise Refused(*prepared.findings)
    if base is None:
        base = baseline.resident(prepared) if device.kind == "cpu" else 0.0
    notes = [f"assumed of this model: {one}" for one in cast(sketch.Sketched, prepared.backbone).assumed]
    try:
        found = weigh(prepared, trace)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        found = footprint.by_formula(prepared, trace)
        first = str(error).strip().split("\n")[0][:120]
        notes.append(f"the model could not be traced ({type(error).__name__}: {first}): activations by a formula")
    if isinstance(prepared.objective, OnlineObjective):
        notes += _of_answers(prepared.objective.options, prepared.backbone.model)
    return _estimate(prepared, device, found, base, notes)


def _of_answers(options: Any, model: Any) -> list[str]:
    """What is not reckoned of a run that learns from its own answers."""
    what = f"{options.group_size} answers of up to {options.max_new_tokens} tokens to each prompt are not planned: "
    notes = [f"{what}writing them and learning from them takes far more time than is told here, and more memory"]
    if held := copied_bytes(model, DTYPES[options.merge]):
        what = (
            f"{held / MEGABYTE:,.1f} MB of it are a copy of the weights that LoRA adapts, into which it is merged while"
        )
        notes.append(f"{what} answers are drawn (`merge: off` does without)")
    return notes


def _estimate(prepared: Prepared, device: Device, found: Footprint, base: float, notes: list[str]) -> Estimate:
    parts, phases, worst = footprint.summed(found, device, base)
    recipe: Any = prepared.resolved.recipe
    total = sum(p.numel() for p in prepared.weights)
    if prepared.backbone.layout == "padded" and prepared.backbone.unpacked_because != "turned off":
        notes.append(f"rows are padded: {prepared.backbone.unpacked_because}")
    about = {
        "name": recipe.model.name,
        "parameters": total,
        "trainable": found.trainable,
        "layout": prepared.backbone.layout,
        "precision": recipe.precision,
        "micro_tokens": recipe.micro_tokens,
        "largest_micro_batch": found.tokens_of_largest,
        "longest_row": prepared.train.longest,
    }
    spent = timing(prepared, found, device)
    return Estimate(
        device, prepared.resolved.rows(), about, parts, phases, worst, sum(parts.values()), spent,
        disk.needed(prepared, found), notes, prepared.findings,
    )  # fmt: skip


def _prepare(resolved: ResolvedRecipe, device: Device, trace: Trace, findings: list[Finding]) -> Prepared:
    """As ``tune`` prepares a run, with a sketch for the model and without the checks that run it."""

    def precision(wanted: str, where: torch.device) -> tuple[str, str]:
        if device.flops is None:
            return choose_precision(wanted, where)
        if wanted == "bf16" and not device.has_bf16:
            mend = "use `precision: fp32`, or leave it to `auto`"
            raise Refused(Finding("machine.precision", "precision", f"{device.name} has no bf16 arithmetic", mend))
        return (wanted, "given") if wanted != "auto" else ("bf16" if device.has_bf16 else "fp32", "machine")

    load = partial(sketch.load, fake=trace.fake, on_gpu=device.kind == "cuda")
    towers = sketch.towers(resolved.recipe.model.init == "random")
    try:
        with tempfile.TemporaryDirectory() as scratch, sketch.sketching(trace.fake):
            means = Means(sketch.locate, load, lambda prepared: [], precision, False, False, towers, Path(scratch))
            return prepare(resolved, torch.device(device.kind), findings, means)
    except (RuntimeError, NotImplementedError) as error:
        what = f"{type(error).__name__}: {error}".strip().split("\n")[0][:200]
        mend = "this model or this method asks for numbers while it is built; `luthier tune` can still run it"
        raise Refused(Finding("plan.untraceable", "model.name", f"no plan without weights: {what}", mend)) from None
