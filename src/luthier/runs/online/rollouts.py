"""Answers of the model's own, made before the steps that learn from them: a source of rows for the loop.

The prompts that were drawn are answered by the model as it is, in evaluation mode, ``group_size`` times each; answers
are rewarded; of each group the advantages are taken. Which answers are drawn depends on the weights, the seed and the
step alone: not on the processes, which share the prompts, nor on where a run was resumed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from luthier.engine.parallel import Processes
from luthier.engine.plan import Emit
from luthier.evaluate.outputs import Reader
from luthier.methods.beside import holds_beside
from luthier.models.backbone import Backbone
from luthier.objectives.online import ADVANTAGE, GAP, LOGS, OLD, OnlineObjective, prompt_of
from luthier.objectives.policy import is_equal
from luthier.objectives.preference import REFERENCE, TokenReader
from luthier.recipe import ResolvedRecipe
from luthier.runs.beside.reference import joins_anew
from luthier.runs.composing import locate_model, open_base
from luthier.runs.online.served import check_server
from luthier.runs.online.writing import Own, Writer, writer_of
from luthier.runs.prepared import Prepared
from luthier.types import Adaptation, Features, Finding, Refused

LISTS = ("input_ids", "supervised")
Group = tuple[Features, list[dict[str, Any]]]
"""A prompt and its answers: their ``ids``, whether each ``finished``, and how it was ``rewarded``."""


class Rollouts:
    """See ``engine/source.py``. ``prompts`` are all training rows, by their ``row``; ``reference`` reads rows under the
    model as it came, or is None where nothing is compared with it."""

    def __init__(
        self, objective: OnlineObjective, reader: Reader, prompts: Sequence[Features], seed: int,
        processes: Processes, emit: Emit, reference: Callable[[list[Features]], list[Any]] | None = None,
        writer: Writer | None = None,
    ):  # fmt: skip
        self.objective, self.reader, self.seed, self.reference = objective, reader, seed, reference
        self.processes, self.emit = processes, emit
        self.writer: Writer = writer or Own(objective, reader.backbone)
        self.prompts = {row["row"]: row for row in prompts}
        self.repeats: int = objective.repeats
        self.report: dict[str, tuple[float, float]] = {}
        self.held: list[Features] = []
        self.made_at = -1

    def rows(self, step: int, drawn: list[Features]) -> list[Features]:
        first = step - step % self.repeats
        if self.made_at != first:
            self.held, self.made_at = self._make(first, drawn), first
        parts = self.objective.minibatches
        if parts == 1:
            return self.held
        passed, part = divmod(step - first, parts)
        order = list(range(len(self.held)))
        random.Random(self._seed("pass", first, passed)).shuffle(order)
        return [self.held[at] for at in order[part::parts]]

    def _make(self, step: int, drawn: list[Features]) -> list[Features]:
        groups = self._groups(drawn, step)
        self._tell(groups)
        groups = self._redrawn(step, groups)
        self.report |= self._equal(groups)
        rows = [row for prompt, answers in groups for row in self.objective.learned(prompt, answers, gained(answers))]
        self._tell_kept(step, groups, len(rows))
        rows, told = self.objective.settled(self._compared(rows), self.reader)
        self.report |= told
        return rows

    def _seed(self, *told: Any) -> int:
        digest = hashlib.sha256(":".join(map(str, (self.seed, *told))).encode()).digest()
        return int.from_bytes(digest[:7], "big")

    def _groups(self, prompts: list[Features], *told: int) -> list[Group]:
        """Each prompt with its answers, rewarded; ``told`` seeds what is drawn."""
        size = self.objective.options.group_size
        asked = [row for row in prompts for _ in range(size)]
        written = self._write(asked, *told)
        self._reward(written, asked)
        return [(prompt, written[at * size : (at + 1) * size]) for at, prompt in enumerate(prompts)]

    def _redrawn(self, step: int, groups: list[Group]) -> list[Group]:
        """With other prompts' groups in the place of those whose answers are all worth the same, where some are found
        in as many tries as the objective allows. What is told of the rewards is of the first draw, which none chose."""
        tries = self.objective.redraws
        drawn = 0
        for number in range(1, tries + 1):
            equal = [at for at, (_, answers) in enumerate(groups) if is_equal(gained(answers))]
            if not equal:
                break
            here = {prompt["row"] for prompt, _ in groups}
            pool = [row for name, row in self.prompts.items() if name not in here] or list(self.prompts.values())
            chosen = random.Random(self._seed("redraw", step, number)).choices(pool, k=len(equal))
            drawn += len(equal)
            for at, found in zip(equal, self._groups(chosen, step, number), strict=True):
                if not is_equal(gained(found[1])):
                    groups[at] = found
        if tries:
            self.report["redrawn"] = (float(drawn), float(len(groups)))
        return groups

    def _write(self, asked: list[Features], *told: int) -> list[dict[str, Any]]:
        """Answers in batches that are the same for any number of processes, each with a seed of its own."""
        size, processes = self.objective.options.generation_batch, self.processes
        cuts = [list(range(at, min(at + size, len(asked)))) for at in range(0, len(asked), size)]
        mine = []
        with self.writer.round():
            for index, places in processes.share(cuts):
                prompts = [prompt_of(asked[at]) for at in places]
                made = self.writer.written(prompts, self._seed("rollout", *told, index))
                mine += list(zip(places, made, strict=True))
        found = [answer for _, answer in sorted(processes.gather(mine), key=lambda one: one[0])]
        if wrong := dict.fromkeys(one for answer in found for one in answer.get("findings", ())):
            raise Refused(*wrong)
        return found

    def _reward(self, written: list[dict[str, Any]], asked: list[Features]) -> None:
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

    def _compared(self, rows: list[Features]) -> list[Features]:
        """With the log-probabilities under the model that wrote them, and under the reference, where they count."""
        if rows and self.objective.recalls:
            old = self.reader.outputs(self.objective.reader, rows)
            rows = [row | {OLD: logs_n} for row, logs_n in zip(rows, old, strict=True)]
        if rows and LOGS in rows[0]:
            rows = [row | {GAP: row[OLD] - torch.tensor(row[LOGS])} for row in rows]
            self.report |= self.writer.apart([row[GAP] for row in rows])
        if rows and self.reference is not None:
            rows = [row | {REFERENCE: logs_n} for row, logs_n in zip(rows, self.reference(rows), strict=True)]
        return rows

    def _tell(self, groups: list[Group]) -> None:
        written = [answer for _, answers in groups for answer in answers]
        count = float(len(written))
        told: dict[str, float] = {"reward": sum(gained(written))}
        parts = written[0]["rewarded"].parts
        if len(parts) > 1:
            told |= {f"reward_{name}": sum(one["rewarded"].parts[name] for one in written) for name in parts}
        told["finished"] = float(sum(one["finished"] for one in written))
        told["length"] = float(sum(len(one["ids"]) for one in written))
        self.report = {name: (value, count) for name, value in told.items()}

    def _equal(self, groups: list[Group]) -> dict[str, tuple[float, float]]:
        if self.objective.options.group_size == 1:
            return {}
        return {"equal_groups": (float(sum(is_equal(gained(answers)) for _, answers in groups)), float(len(groups)))}

    def _tell_kept(self, step: int, groups: list[Group], kept: int) -> None:
        count = sum(len(answers) for _, answers in groups)
        if self.objective.options.truncated == "drop":
            self.report["dropped"] = (float(count - kept), float(count))
        if not kept:
            text = f"none of {count} answers ended within {self.objective.options.max_new_tokens} tokens: none"
            text += " is learned from in this step"
            self.emit({"step": step + 1, "kind": "event", "event": "no-answer", "text": text})

    def state(self, step: int) -> dict[str, Tensor]:
        kept = {f"state.{name}": _number(value) for name, value in self.objective.state.items()}
        if not step % self.repeats:
            return kept
        kept |= {
            "row": torch.tensor([row["row"] for row in self.held], dtype=torch.long),
            "length": torch.tensor([row["lengths"][0] for row in self.held], dtype=torch.long),
            ADVANTAGE: _number([row.get(ADVANTAGE, 0.0) for row in self.held]),
        }
        for name in (*LISTS, *self.objective.per_token):
            if self.held and name in self.held[0]:
                kept[name] = torch.cat([torch.as_tensor(row[name]).reshape(-1) for row in self.held])
        return kept | {f"report.{name}": _number(pair) for name, pair in self.report.items()}

    def restore(self, step: int, tensors: dict[str, Tensor]) -> None:
        told: dict[Any, Any] = {
            name.partition(".")[::2]: tensor.tolist() for name, tensor in sorted(tensors.items()) if "." in name
        }
        self.objective.state |= {name: value for (kind, name), value in told.items() if kind == "state"}
        if not step % self.repeats:
            return
        self.held, self.made_at = [], step - step % self.repeats
        self.report = {name: (pair[0], pair[1]) for (kind, name), pair in told.items() if kind == "report"}
        lengths = tensors["length"].tolist()
        if not lengths:
            return
        supervised = tensors["supervised"].split(lengths)
        counts = [int(part.sum()) for part in supervised]
        parts = {name: tensors[name].split(lengths) for name in LISTS}
        numbers = {name: tensors[name].split(counts) for name in self.objective.per_token if name in tensors}
        for at, (row, advantage) in enumerate(zip(tensors["row"].tolist(), tensors[ADVANTAGE].tolist(), strict=True)):
            made: Features = {name: part[at].tolist() for name, part in parts.items()}
            made |= {name: part[at] for name, part in numbers.items()}
            made |= {"lengths": [lengths[at]], ADVANTAGE: advantage, **self.objective.begun(self.prompts[row])}
            self.held.append({**self.prompts[row], **made})


def gained(answers: Sequence[dict[str, Any]]) -> list[float]:
    return [float(answer["rewarded"].total) for answer in answers]


def _number(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def judged_by(objective: Any, task: Any, backbone: Backbone) -> None:
    """For an objective on a model's own answers: how the task rewards them, and what ends them."""
    if isinstance(objective, OnlineObjective):
        objective.score, objective.stop = task.score, task.terminators(backbone)


def repeats(objective: Any) -> int:
    """Steps that learn from the same rows."""
    return objective.repeats if isinstance(objective, OnlineObjective) else 1


def check_rollouts(objective: Any, adaptation: Adaptation, resolved: ResolvedRecipe, reach: bool) -> list[Finding]:
    """What they need of the method: a reference that is the model with it off, and a server, which is asked (where it
    can be) whether it is there."""
    if not isinstance(objective, OnlineObjective):
        return []
    name = str(resolved.recipe.objective)
    found = _check_reference(objective, adaptation, name)
    return found + check_server(objective, f"{name}.server", holds_beside(resolved.methods), reach)


def _check_reference(objective: OnlineObjective, adaptation: Adaptation, name: str) -> list[Finding]:
    if not objective.compares or not adaptation.parameters:
        return []
    still = adaptation.base is not None and not joins_anew(objective.backbone, adaptation)
    if objective.options.reference != "switched" or still:
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
    writer = writer_of(prepared, objective, reader.backbone, processes)
    return Rollouts(objective, reader, prepared.train.rows, seed, processes, emit, reference, writer)


def _reference(prepared: Prepared, objective: OnlineObjective, reader: Reader) -> Callable[[list[Features]], list[Any]]:
    """Reads rows under the model as it came: the method switched off, or a frozen copy beside the one that trains."""
    base = prepared.adaptation.base
    still = not joins_anew(prepared.backbone, prepared.adaptation)
    if base is not None and still and objective.options.reference != "copy":

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
