"""Every chosen parameter can learn: a gradient reaches it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from luthier.engine.accumulate import loss_of
from luthier.engine.fit import choose, train_mode
from luthier.models.modes import statistics
from luthier.models.stacks import stacks
from luthier.runs.beside.reference import with_reference
from luthier.types import Features, Finding

if TYPE_CHECKING:
    from luthier.runs.prepared import Prepared

NUDGE = 1e-3


def gradients_flow(prepared: Prepared) -> list[Finding]:
    """Up to three trial steps on a few short rows, undone afterwards.

    The second and the third matter: a LoRA's A has no gradient while its B is zero, and what a gate lets through has
    none while that is closed. Nothing is left changed: weights, statistics, gradients, mode and random state are as
    before.
    """
    parameters = prepared.adaptation.parameters
    rows = with_reference(prepared, _trial_rows(prepared))
    if not parameters or not rows:
        return []
    backbone, model = prepared.backbone, prepared.backbone.model
    mode = [(module, module.training) for module in model.modules()]
    choose(model, prepared.adaptation)
    held: dict[str, torch.Tensor] = {**parameters, **statistics(prepared.adaptation.batch_norms)}
    before = {name: tensor.detach().clone() for name, tensor in held.items()}
    reached: set[str] = set()
    with torch.random.fork_rng():
        train_mode(backbone, prepared.adaptation)
        for _ in range(3):
            if reached == parameters.keys():
                break
            terms, _ = loss_of(backbone, prepared.objective, rows, str(prepared.resolved.recipe.precision))
            if not terms.total.requires_grad:
                break
            terms.total.backward()
            reached |= {name for name, p in parameters.items() if p.grad is not None and p.grad.abs().sum() > 0}
            with torch.no_grad():
                for p in parameters.values():
                    if p.grad is not None and p.grad.norm() > 0:
                        p.add_(p.grad, alpha=-NUDGE / float(p.grad.norm()))
            for p in (*model.parameters(), *parameters.values()):
                p.grad = None
    with torch.no_grad():
        for name, tensor in held.items():
            tensor.copy_(before[name])
    for module, training in mode:
        module.training = training
    return _unreached(prepared, [name for name in parameters if name not in reached])


def _trial_rows(prepared: Prepared) -> list[Features]:
    """The shortest, some with pictures where there are any; of rows that are learned from by their differences some
    from all over the shorter half."""
    ordered = sorted(prepared.train.rows, key=lambda row: len(row["input_ids"]))
    if not prepared.objective.couples:
        chosen = ordered[:4]
        shown = [row for row in ordered if row.get("pictures")][:2]
        return chosen if any(row.get("pictures") for row in chosen) else [*chosen, *shown]
    half = ordered[: max(8, len(ordered) // 2)]
    together = min(8, len(half), int(prepared.resolved.recipe.batch_size or 8))
    return random.Random(0).sample(half, together)  # every n-th could be of one kind, where kinds take turns


def _unreached(prepared: Prepared, names: list[str]) -> list[Finding]:
    if not names:
        return []
    parameters, backbone = prepared.adaptation.parameters, prepared.backbone
    of, alone = len(parameters), {"image": backbone.pictures, "audio": backbone.sounds}
    towers = stacks(backbone.model) or {sense: backbone.trunk for sense, reader in alone.items() if reader is not None}
    what = f"{len(names)} of {of} trainable tensors receive no gradient: {', '.join(names[:3])}"
    for role, tower in towers.items():
        inside = {id(parameter) for parameter in tower.parameters()}
        chosen = [name for name, parameter in parameters.items() if id(parameter) in inside]
        if chosen and {*chosen} <= {*names}:
            what += f"; the {role} tower is not reached at all"
    if prepared.objective.couples and prepared.resolved.recipe.batch_size == 1 and len(names) == of:
        what = (
            "rows are learned from by what tells them from the others of their batch, and a batch of one has no other"
        )
        return [Finding("recipe.combination", "batch_size", what, "raise it; memory does not grow with it")]
    severity = "error" if len(names) == of else "warning"
    mend = "choose other targets: these would stay as they are"
    return [Finding("method.no-gradient", "method", what, mend, severity=severity)]
