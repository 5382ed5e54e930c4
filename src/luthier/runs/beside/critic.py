"""The value model of PPO: in the weights that are tuned, by an adapter of its own or by a head alone; or a whole model
beside them (``value_model.py``).

It trains with the model that writes, lies in each checkpoint with it, and is saved in ``final/value``: in PEFT's
layout, or whole, as a classifier with one output, which a reward model is too. So another run's value model can begin
as either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luthier.methods.beside import Beside, add, holds_beside, open_beside
from luthier.methods.common import PREFIX, read_adapter, save_adapter
from luthier.models.apart import Apart
from luthier.models.backbone import Backbone
from luthier.models.scored import Scored, scored
from luthier.objectives.ppo import Objective
from luthier.recipe import ResolvedRecipe
from luthier.runs.beside.value_model import WHOLE, begin_whole, open_whole, save_whole_value
from luthier.runs.run import Run
from luthier.types import Adaptation, Finding, Refused

NAME = "value"
HEAD = "score.weight"
DEVIATION = 0.02
"""Of a new head's numbers, as transformers draws those of a classifier."""


def give_value(
    objective: Any, adaptation: Adaptation, resolved: ResolvedRecipe, load: Callable[..., Any], *, sketched: bool
) -> tuple[Adaptation, list[Finding]]:
    """The adaptation with the value model's parameters, for an objective that has one; and what does not fit. ``load``
    opens a model (or a sketch)."""
    if not isinstance(objective, Objective):
        return adaptation, []
    try:
        value, beside = _made(objective, resolved, bool(adaptation.parameters), load, sketched=sketched)
    except Refused as refused:
        objective.value = scored(objective.backbone, _drawn(objective.backbone, resolved), None)  # checks go on
        return adaptation, refused.findings
    objective.value, objective.parameters = value, value.trained()

    def save(folder: Path) -> None:
        adaptation.save(folder)
        if isinstance(value, Apart):
            save_whole_value(value, folder / NAME)
        elif beside is None:
            save_adapter(folder / NAME, value, {"peft_type": "WEIGHTS"}, {}, value.head_parameters())
        else:
            beside.save(folder / NAME, value, value.head_parameters())

    if not adaptation.parameters:
        return adaptation, []
    more = objective.parameters | (beside.parameters if beside else {})
    return replace(adaptation, parameters=adaptation.parameters | more, save=save), []


def open_value(objective: Any, resolved: ResolvedRecipe, final: Path) -> None:
    """That of a finished run."""
    if not isinstance(objective, Objective):
        return
    backbone, folder = objective.backbone, final / NAME
    if objective.options.value == WHOLE:
        objective.value = open_whole(backbone, folder, resolved)
        return
    kept, tensors = read_adapter(folder)
    if kept["peft_type"] == "WEIGHTS":
        objective.value = scored(backbone, head_of(tensors[f"{PREFIX}{HEAD}"]), None)
    else:
        beside = open_beside(backbone, folder, NAME)
        objective.value = scored(backbone, head_of(beside.head[HEAD]), beside.using)


def _made(
    objective: Objective, resolved: ResolvedRecipe, adapted: bool, load: Callable[..., Any], *, sketched: bool
) -> tuple[Scored, Beside | None]:
    options, methods, backbone = objective.options, resolved.methods, objective.backbone
    if options.value == WHOLE:
        run = Run(find_run(options.value_from, resolved)) if options.value_from else None
        return begin_whole(backbone, resolved, run, load, sketched=sketched), None
    holds = holds_beside(methods)
    if options.value == "adapter" and not holds:
        what = f"`{methods.name}` has no unchanged weights beside which a value model of its own could stand"
        mend = "use `method: lora`, `value: head`, or a whole one (`value: model`)"
        raise Refused(Finding("reinforce.value", "ppo.value", what, mend))
    own = holds and adapted and options.value != "head"
    if options.value_from is not None:
        if not own:
            what, mend = "a value model that is a head alone begins with none", "use `method: lora` or `value: model`"
            raise Refused(Finding("reinforce.value", "ppo.value_from", what, mend))
        beside = _begun(options.value_from, resolved, backbone)
        return scored(backbone, head_of(beside.head[HEAD]), beside.using), beside
    head = _drawn(backbone, resolved)
    if not own:
        return scored(backbone, head, None), None
    beside = add(backbone, methods.options["lora"], NAME)
    return scored(backbone, head, beside.using), beside


def _drawn(backbone: Backbone, resolved: ResolvedRecipe) -> nn.Linear:
    draw = torch.Generator().manual_seed(resolved.recipe.seed)
    return head_of(torch.randn(1, backbone.width, generator=draw) * DEVIATION)


def head_of(weight_1D: Tensor) -> nn.Linear:
    head = nn.Linear(weight_1D.shape[1], 1, bias=False)
    head.weight.data = weight_1D.float().clone()
    return head


def _begun(name: str, resolved: ResolvedRecipe, backbone: Backbone) -> Beside:
    """The adapter and head of another run, of the same base. Raises Refused."""
    run = Run(find_run(name, resolved))
    final = run.folder / "final"
    folder = final / NAME if (final / NAME).is_dir() else final
    if run.info["model"].get("fingerprint") != backbone.fingerprint or not holds_beside(run.resolved.methods):
        what = f"{name} is no LoRA run of the model that is tuned here"
        mend = "name one, leave it out, or take it as a whole model (`value: model`)"
        raise Refused(Finding("reinforce.value", "ppo.value_from", what, mend))
    beside = open_beside(backbone, folder, NAME)
    if beside.head.keys() != {HEAD}:
        what = f"{name} has no head with one output that a value model could begin with"
        raise Refused(Finding("reinforce.value", "ppo.value_from", what, "name a run of `reward`, or of PPO"))
    return beside


def find_run(name: str, resolved: ResolvedRecipe) -> Path:
    """From here, or from the recipe's folder."""
    return Path(name) if (Path(name) / "run.json").is_file() else resolved.base / name
