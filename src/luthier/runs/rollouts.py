"""Answers of the model's own, made before the steps that learn from them: a source of rows for the loop.

The prompts that were drawn are answered by the model as it is, in evaluation mode, ``group_size`` times each; answers
are rewarded; of each group the advantages are taken. Which answers are drawn depends on the weights, the seed and the
step alone: not on the processes, which share the prompts, nor on where a run was resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from luthier.engine.parallel import Processes
from luthier.engine.plan import Emit
from luthier.evaluate.outputs import Reader
from luthier.models.backbone import Backbone
from luthier.objectives.online import ADVANTAGE, OLD, OnlineObjective
from luthier.objectives.policy import is_equal
from luthier.objectives.preference import REFERENCE, TokenReader
from luthier.runs.composing import locate_model, open_base
from luthier.runs.prepared import Prepared
from luthier.types import Adaptation, Features, Finding, Refused

LISTS = ("input_ids", "supervised", OLD, REFERENCE)


class Rollouts:
    """See ``engine/source.py``. ``prompts`` are all training rows, by their ``row``; ``reference`` reads rows under the
    model as it came, or is None where nothing is compared with it."""

    def __init__(
        self, objective: OnlineObjective, reader: Reader, prompts: Sequence[Features], seed: int,
        processes: Processes, emit: Emit, reference: Callable[[list[Features]], list[Any]] | None = None,
    ):  # fmt: skip
        self.objective, self.reader, self.seed, self.reference = objective, reader, seed, reference
        self.processes, self.emit = processes, emit
        self.prompts = {row["row"]: row for row in prompts}
        self.repeats: int = objective.options.iterations
        self.report: dict[str, tuple[float, float]] = {}
        self.held: list[Features] = []
        self.made_at = -1

    def rows(self, step: int, drawn: list[Features]) -> list[Features]:
        first = step - step % self.repeats
        if self.made_at != first:
            self.held, self.made_at = self._make(first, drawn), first
        return self.held

    def _make(self, step: int, drawn: list[Features]) -> list[Features]:
        size, options = self.objective.options.group_size, self.objective.options
        asked = [row for row in drawn for _ in range(size)]
        written = self._write(step, asked)
        rewards = self._rewarded(step, written, asked)
        rows: list[Features] = []
        equal = 0
        for at in range(0, len(asked), size):
            group, got = written[at : at + size], rewards[at : at + size]
            equal += is_equal(got)
            for answer, advantage in zip(group, self.objective.advantages(got), strict=True):
                if answer["finished"] or options.truncated == "keep":
                    rows.append(self.objective.answered(drawn[at // size], answer["ids"], advantage))
        self._tell(step, written, rewards, equal, len(drawn), len(rows))
        return self._compared(rows)

    def _write(self, step: int, asked: list[Features]) -> list[dict[str, Any]]:
        """Answers in batches that are the same for any number of processes, each with a seed of its own."""
        options, processes = self.objective.options, self.processes
        size = options.generation_batch
        cuts = [list(range(at, min(at + size, len(asked)))) for at in range(0, len(asked), size)]
        mine = []
        for index, places in processes.share(cuts):
            prompts = [asked[at]["input_ids"][: asked[at]["prompt"]] for at in places]
            digest = hashlib.sha256(f"{self.seed}:rollout:{step}:{index}".encode()).digest()
            made = self.objective.write(
                self.reader.backbone, prompts, options.temperature, int.from_bytes(digest[:7], "big")
            )
            mine += list(zip(places, made, strict=True))
        return [answer for _, answer in sorted(processes.gather(mine), key=lambda one: one[0])]

    def _rewarded(self, step: int, written: list[dict[str, Any]], asked: list[Features]) -> list[float]:
        """By the main process, so that a reward is asked once; what is wrong with one is told by all."""
        processes = self.processes
        assert self.objective.score is not None
        found: list[Any] = []
        if processes.main:
            try:
                self.objective.score(written, asked)
                found = [(answer["rewarded"], []) for answer in written]
            except Refused as refused:
                found = [(None, refused.findings)]
        found = processes.gather(found)
        if found[0][1]:
            raise Refused(*found[0][1])
        for answer, (one, _) in zip(written, found, strict=True):
            answer["rewarded"] = one
        return [float(one.total) for one, _ in found]

    def _compared(self, rows: list[Features]) -> list[Features]:
        """With the log-probabilities under the model that wrote them, and under the reference, where they count."""
        if rows and self.repeats > 1:
            old = self.reader.outputs(self.objective.reader, rows)
            rows = [row | {OLD: logs_n} for row, logs_n in zip(rows, old, strict=True)]
        if rows and self.reference is not None:
            rows = [row | {REFERENCE: logs_n} for row, logs_n in zip(rows, self.reference(rows), strict=True)]
        return rows

    def _tell(
        self, step: int, written: list[dict[str, Any]], rewards: list[float], equal: int, groups: int, kept: int
    ) -> None:
        count = float(len(written))
        told: dict[str, float] = {"reward": sum(rewards)}
        parts = written[0]["rewarded"].parts
        if len(parts) > 1:
            told |= {f"reward_{name}": sum(one["rewarded"].parts[name] for one in written) for name in parts}
        told["finished"] = float(sum(one["finished"] for one in written))
        told["length"] = float(sum(len(one["ids"]) for one in written))
        self.report = {name: (value, count) for name, value in told.items()}
        self.report["equal_groups"] = (float(equal), float(groups))
        if self.objective.options.truncated == "drop":
            self.report["dropped"] = (count - kept, count)
        if not kept:
            text = f"none of {len(written)} answers ended within {self.objective.options.max_new_tokens} tokens: none"
            text += " is learned from in this step"
            self.emit({"step": step + 1, "kind": "event", "event": "no-answer", "text": text})

    def state(self, step: int) -> dict[str, Tensor]:
        if not step % self.repeats:
            return {}
        tensors = {
            "row": torch.tensor([row["row"] for row in self.held], dtype=torch.long),
            "length": torch.tensor([row["lengths"][0] for row in self.held], dtype=torch.long),
            ADVANTAGE: torch.tensor([row[ADVANTAGE] for row in self.held], dtype=torch.float64),
        }
        for name in LISTS:
            if self.held and name in self.held[0]:
                tensors[name] = torch.cat([torch.as_tensor(row[name]).reshape(-1) for row in self.held])
        told = {f"report.{name}": torch.tensor(pair, dtype=torch.float64) for name, pair in self.report.items()}
        return tensors | told

    def restore(self, step: int, tensors: dict[str, Tensor]) -> None:
        lengths = tensors["length"].tolist()
        self.held, self.made_at = [], step - step % self.repeats
        self.report = {
            name.removeprefix("report."): (float(pair[0]), float(pair[1]))
            for name, pair in sorted(tensors.items())
            if name.startswith("report.")
        }
        if not lengths:
            return
        supervised = tensors["supervised"].split(lengths)
        counts = [int(part.sum()) for part in supervised]
        parts = {name: tensors[name].split(lengths) for name in LISTS[:2]}
        logs = {name: tensors[name].split(counts) for name in LISTS[2:] if name in tensors}
        for at, (row, advantage) in enumerate(zip(tensors["row"].tolist(), tensors[ADVANTAGE].tolist(), strict=True)):
            made = {name: part[at].tolist() for name, part in parts.items()}
            made |= {name: part[at] for name, part in logs.items()}
            self.held.append({**self.prompts[row], **made, "lengths": [lengths[at]], ADVANTAGE: advantage})


def judged_by(objective: Any, task: Any, backbone: Backbone) -> None:
    """For an objective on a model's own answers: how the task rewards them, and what ends them."""
    if isinstance(objective, OnlineObjective):
        objective.score, objective.stop = task.score, task.terminators(backbone)


def repeats(objective: Any) -> int:
    """Steps that learn from the same rows."""
    return objective.options.iterations if isinstance(objective, OnlineObjective) else 1


def check_reference(objective: Any, adaptation: Adaptation, name: str) -> list[Finding]:
    """A reference that is the model with its method off needs a method that can be switched off."""
    if not isinstance(objective, OnlineObjective) or not objective.compares or not adaptation.parameters:
        return []
    if objective.options.reference != "switched" or adaptation.base is not None:
        return []
    what = f"`{adaptation.method}` changes the weights themselves: there is nothing to switch off"
    mend = "leave it out (a frozen copy is then held), or set `beta: 0`"
    return [Finding("reinforce.reference", f"{name}.reference", what, mend)]


def rollouts_of(prepared: Prepared, reader: Reader, processes: Processes, emit: Emit) -> Rollouts | None:
    """The source of a run whose objective learns from the model's own answers; None for others."""
    objective = prepared.objective
    if not isinstance(objective, OnlineObjective):
        return None
    reference = _reference(prepared, objective, reader) if objective.compares else None
    seed = prepared.resolved.recipe.seed
    return Rollouts(objective, reader, prepared.train.rows, seed, processes, emit, reference)


def _reference(prepared: Prepared, objective: OnlineObjective, reader: Reader) -> Callable[[list[Features]], list[Any]]:
    """Reads rows under the model as it came: the method switched off, or a frozen copy beside the one that trains."""
    base = prepared.adaptation.base
    if base is not None and objective.options.reference != "copy":

        def switched(rows: list[Features]) -> list[Any]:
            with base():
                return reader.outputs(objective.reader, rows)

        return switched
    copy = _copy(prepared)
    other, asks = replace(reader, backbone=copy), TokenReader(copy, objective.options.temperature)
    return lambda rows: other.outputs(asks, rows)


def _copy(prepared: Prepared) -> Backbone:
    path, findings = locate_model(prepared.resolved)
    if findings:
        raise Refused(*findings)
    dtype = "bfloat16" if prepared.resolved.recipe.precision == "bf16" else "float32"
    found = open_base(prepared.resolved, path, prepared.backbone, dtype=dtype)
    found.model.requires_grad_(False)
    found.model.eval()
    return found
