"""One copy of a base model in memory, the adapters of several runs on it: chosen for each input, in one batch.

Rows of a classifier that ask for different adapters go through the model together, each through its own; each then gets
the head of its run. Where answers are written, one pass is made for each adapter.

Axes: K rows, D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.data.files.read import read_rows
from luthier.methods.bottleneck import Composition, install
from luthier.methods.common import PREFIX
from luthier.methods.members import Member, check_bases, find_members, member_name
from luthier.models.load import load
from luthier.objectives.sequence import SequenceObjective
from luthier.runs.beside.reference import share_reference
from luthier.runs.predictor import Predictor
from luthier.runs.run import Run
from luthier.types import Batch, Finding, Refused

BATCH = 64


@dataclass
class Seat:
    """A run on the shared model: its predictor (task, encoder), its adapter's name, and its head."""

    predictor: Predictor
    member: Member
    head: dict[str, Tensor]


class Switch:
    """``Switch(["runs/a", "runs/b"]).answers([("a", "A text."), ("b", "A text.")])``.

    Raises Refused for runs of other methods than `adapter`, of other bases, or of tasks with other kinds of heads.
    """

    def __init__(self, runs: Sequence[str | Path]):
        opened = [Run(run) for run in runs]
        members = find_members([run.folder for run in opened])
        _one_kind(opened)
        first = opened[0]
        # The first run's predictor is the shared model; of the others only task and encoder are used.
        shared = first.predictor
        backbone = load(
            first.resolved.recipe.model.name, shared.backbone.path, shared.backbone.needs, config=shared.task.config(),
            revision=first.resolved.recipe.model.revision,
        )  # fmt: skip
        check_bases(backbone, members)
        self.backbone = backbone
        self.composition: Composition = install(backbone, {member.name: member.spec for member in members})
        for member in members:
            member.put(backbone)
        backbone.read_as(shared.backbone)
        backbone.model.to(shared.backbone.device).eval()
        backbone.choose_layout(first.resolved.recipe.packing)
        self.seats = {member.name: self._seat(run, member) for run, member in zip(opened, members, strict=True)}

    def _seat(self, run: Run, member: Member) -> Seat:
        own = run.predictor
        objective = type(own.objective)(run.resolved.objective_options, self.backbone, own.objective.encoder)
        share_reference(own.objective, objective)
        predictor = replace(
            own, backbone=self.backbone, objective=objective, reader=replace(own.reader, backbone=self.backbone)
        )
        names = self.backbone.head_parameters() if self.backbone.has_own_head else {}
        return Seat(predictor, member, {name: member.tensors[f"{PREFIX}{name}"] for name in names})

    @property
    def names(self) -> list[str]:
        return list(self.seats)

    def answers(self, given: Sequence[tuple[str, Any]], **options: Any) -> list[dict[str, Any]]:
        """Answers to (adapter, input) pairs, in their order. Raises Refused for an adapter that is not there."""
        unknown = sorted({name for name, _ in given} - self.seats.keys())
        if unknown:
            mend = f"there are: {', '.join(self.seats)}"
            raise Refused(*(Finding("adapter.unknown", name, "no run of this name is here", mend) for name in unknown))
        if all(isinstance(seat.predictor.objective, SequenceObjective) for seat in self.seats.values()):
            return [answer for at in range(0, len(given), BATCH) for answer in self._mixed(given[at : at + BATCH])]
        found: dict[int, dict[str, Any]] = {}
        for name, seat in self.seats.items():
            mine = [at for at, (asked, _) in enumerate(given) if asked == name]
            if mine:
                self._place(seat)
                with self.composition.using(name):
                    told = seat.predictor.answers([given[at][1] for at in mine], **options)
                found |= dict(zip(mine, told, strict=True))
        return [found[at] | {"adapter": given[at][0]} for at in range(len(given))]

    @torch.no_grad()
    def _mixed(self, given: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
        """All rows through the model in one batch, each through its own adapter."""
        rows, order = [], list(self.seats)
        for at, (name, one) in enumerate(given):
            predictor = self.seats[name].predictor
            (features,) = predictor.objective.encode(predictor.task.parse(one))
            rows.append(features | {"row": at, "target": None})
        any_seat = next(iter(self.seats.values()))
        batch = any_seat.predictor.objective.collate(rows).to(self.backbone.device)
        chosen_K = torch.tensor([order.index(name) for name, _ in given], device=self.backbone.device)
        batch.tensors["adapter"] = chosen_K
        hidden_TD = self.backbone.hidden(batch)
        found: dict[int, dict[str, Any]] = {}
        for index, name in enumerate(order):
            at_K = (chosen_K == index).nonzero().squeeze(1)
            if len(at_K):
                logits = self._logits(self.seats[name], hidden_TD, batch, at_K)
                task = self.seats[name].predictor.task
                found |= {at: task.answer_from(one) for at, one in zip(at_K.tolist(), logits, strict=True)}
        return [found[at] | {"adapter": given[at][0]} for at in range(len(given))]

    def _logits(self, seat: Seat, hidden_TD: Tensor, batch: Batch, at_K: Tensor) -> list[list[float]]:
        """A run's head on its own rows."""
        self._place(seat)
        mine = Batch({"starts": batch["starts"][at_K], "lengths": batch["lengths"][at_K]}, at_K.tolist())
        return self.backbone.sequence_logits(hidden_TD, mine).float().tolist()

    def _place(self, seat: Seat) -> None:
        """A run's head: its numbers lie in the model only while it answers."""
        parameters = self.backbone.head_parameters()
        for name, tensor in seat.head.items():
            parameters[name].data = tensor.to(parameters[name].device)


def _one_kind(runs: list[Run]) -> None:
    """Heads can be exchanged on one architecture; a classifier and a writer have different ones."""
    needs = {run.info["needs"] for run in runs}
    if len(needs) > 1:
        what = "these runs do different things with a text: they need models with different heads"
        raise Refused(Finding("adapters.kind", str(runs[0].folder), what, "switch among runs of like tasks"))


def requests(switch: Switch, use: str | None, data: str | None, texts: Sequence[str] | None) -> list[tuple[str, Any]]:
    """(adapter, input) pairs: a row's own ``adapter``, else ``use``, else every one. Raises Refused for bad files."""
    inputs: list[Any] = list(texts or [])
    if data:
        rows, findings = read_rows(data, base=Path.cwd())
        if findings:
            raise Refused(*findings)
        inputs += [row for _, row in rows]
    use = member_name(Path(use)) if use else None
    asked = []
    for one in inputs:
        own = one.get("adapter") if isinstance(one, dict) else None
        mine = member_name(Path(str(own))) if own else use
        asked += [(name, one) for name in ([mine] if mine else switch.names)]
    return asked
