"""The run's memory: its phases carried out on fake tensors, and what is held at the worst moment of each.

Axes: L tokens of a row, D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from luthier.data.collate import MULTIPLE
from luthier.engine.accumulate import loss_of, row_groups, size
from luthier.engine.batching import Order
from luthier.engine.cache import rows_hash
from luthier.engine.fit import choose, train_mode, trunk_is_frozen
from luthier.engine.optimizer import build
from luthier.engine.precision import matmul_route
from luthier.evaluate.outputs import Reader
from luthier.models import sketch
from luthier.objectives.distill import LOGITS, Classes
from luthier.objectives.likelihood import supervised_tokens
from luthier.objectives.preference import REFERENCE
from luthier.objectives.sequence import SequenceObjective
from luthier.plan.trace import Trace, Work
from luthier.runs.beside.reference import keeps_reference
from luthier.runs.beside.teacher import teacher_of
from luthier.runs.beside.teaching import read
from luthier.runs.prepared import Prepared
from luthier.runs.training import all_different, still_towers
from luthier.types import Features

MOST_STEPS = 2000  # whose micro-batches are looked at
AGAIN = 2  # with the optimizer's state there, and the heap as it is left by the first step


@dataclass
class Footprint:
    """The trace of a run, and what was traced.

    ``tokens`` are those of the traced micro-batches together, ``tokens_of_largest`` of the largest; ``update`` is the
    work of the optimizer's step, ``evaluated`` and ``read`` how many tokens the traced evaluation and the traced
    reading of a frozen trunk have, ``referred`` those of which a reference's log-probabilities were traced.
    """

    trace: Trace
    tokens: int = 0
    tokens_of_largest: int = 0
    evaluated: int = 0
    read: int = 0
    referred: int = 0
    read_once: float = 0.0
    """How many times as much as the traced reading of frozen towers all of it is."""
    update: Work = field(default_factory=Work)
    groups: list[list[int]] = field(default_factory=list)
    cache_bytes: int = 0
    trainable: int = 0


def weigh(prepared: Prepared, trace: Trace) -> Footprint:
    """Carry out the run's phases, each once, in order: checks, evaluation, two steps, evaluation, a checkpoint."""
    model, adaptation, recipe = prepared.backbone.model, prepared.adaptation, prepared.resolved.recipe
    found = Footprint(trace, trainable=sum(p.numel() for p in adaptation.parameters.values()))
    trace.vocabulary = _vocabulary(prepared)
    trace.name("weights", [*prepared.weights, *model.buffers()])
    if (teacher := teacher_of(prepared.objective)) is not None:
        trace.name("weights", [*teacher.backbone.model.parameters(), *teacher.backbone.model.buffers()])
    reader = Reader(prepared.backbone, int(recipe.micro_tokens or 0), recipe.precision, str(recipe.matmul))
    with trace, matmul_route(str(recipe.matmul)):
        if adaptation.solve is not None:
            _solve(prepared, reader, found)
            return found
        _refer(prepared, reader, found)
        with trace.phase("evaluation", graph=False):
            found.evaluated = _evaluate(prepared, reader)
        rows = _taught(prepared, reader, found)
        _remember(prepared, reader, found)
        if trunk_is_frozen(prepared.backbone, adaptation) and isinstance(prepared.objective, SequenceObjective):
            rows = _hidden(prepared, reader, found)
        choose(model, adaptation)
        trace.name("weights", model.parameters())
        optimizer = build(adaptation.parameters, 1e-3, 0.0)
        train_mode(prepared.backbone, adaptation)
        with trace.phase("step"):
            _step(prepared, trace, found, rows, optimizer)
        for _ in range(AGAIN):
            trace.repeat("step")
        trace.repeat("evaluation")
        with trace.phase("checkpoint"):
            for copies in (1, 2):  # the parameters; AdamW's two moments
                _write(trace, [4 * p.numel() for p in adaptation.parameters.values()] * copies)
    return found


def _vocabulary(prepared: Prepared) -> int:
    output = prepared.backbone.model.get_output_embeddings()
    vocabulary = output.weight.shape[0] if output is not None else 0
    return vocabulary if vocabulary != prepared.backbone.width else 0


def _step(prepared: Prepared, trace: Trace, found: Footprint, rows: list[Features], optimizer: Any) -> None:
    """As ``engine.accumulate`` and ``engine.fit`` do, for the step's largest micro-batches."""
    parameters = list(prepared.adaptation.parameters.values())
    if not found.groups:
        found.groups = worst_groups(prepared, rows)
    found.tokens = 0
    if prepared.objective.couples and len(found.groups) > 1:  # every vector once without a graph
        with torch.no_grad():
            for group in found.groups:
                prepared.objective.vectors(prepared.backbone, prepared.objective.collate([rows[i] for i in group]))
    for group in found.groups:
        some = [rows[i] for i in group]
        terms, batch = loss_of(prepared.backbone, prepared.objective, some, str(prepared.resolved.recipe.precision))
        trace.name_rest("activations")
        if terms.total.requires_grad:
            terms.total.backward()
        trace.name("gradients", [p.grad for p in parameters])
        tokens = batch.tokens + costs(some)
        found.tokens += tokens
        found.tokens_of_largest = max(found.tokens_of_largest, tokens)
        del batch, terms
    with trace.aside() as found.update:
        _update(trace, parameters, optimizer)


def costs(rows: Sequence[Features]) -> int:
    """What pictures and sounds cost beside the tokens of these rows, less what is computed once of these."""
    return sum(row.get("cost", 0) - row.get("spared", 0) for row in rows)


def _update(trace: Trace, parameters: list[Any], optimizer: Any) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.div_(2.0)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    trace.name("optimizer", [value for state in optimizer.state.values() for value in state.values()])
    optimizer.zero_grad(set_to_none=True)


def worst_groups(prepared: Prepared, rows: Sequence[Features]) -> list[list[int]]:
    """The micro-batches to trace, as row indices: of all steps the largest one, after the first of its step.

    Within a step gradients are there from the second micro-batch on, so the largest of those counts; where a step's
    first is larger still, or is the only one, it comes first.
    """
    recipe: Any = prepared.resolved.recipe
    order = Order(len(rows), recipe.batch_size, recipe.seed, rows_hash(prepared.train.rows), prepared.mixture)
    padded = prepared.backbone.layout == "padded"
    budget = int(recipe.micro_tokens)

    def cost(group: list[int]) -> int:
        lengths = [size(rows[i]) for i in group]
        return max(lengths) * len(lengths) if padded else -(-sum(lengths) // MULTIPLE) * MULTIPLE

    first: list[int] = []
    later: list[int] = []
    for step in range(min(recipe.steps, MOST_STEPS)):
        indices = order.step(step)
        groups = [[indices[i] for i in g] for g in row_groups([rows[i] for i in indices], budget, padded=padded)]
        first = max(first, groups[0], key=cost) if first else groups[0]
        for group in groups[1:]:
            later = max(later, group, key=cost) if later else group
    return [first, later] if later else [first]


def _evaluate(prepared: Prepared, reader: Reader) -> int:
    """The largest micro-batch of the rows that are held out; its tokens."""
    rows = prepared.evaluation.rows
    if not rows:
        return 0
    group = _largest(rows, reader)
    reader.outputs(prepared.objective, [rows[i] for i in group])
    return sum(size(rows[i]) for i in group)


def _largest(rows: Sequence[Features], reader: Reader) -> list[int]:
    padded = reader.backbone.layout == "padded"
    groups = row_groups(rows, reader.micro_tokens, padded=padded)
    return max(groups, key=lambda group: sum(size(rows[i]) for i in group))


def _taught(prepared: Prepared, reader: Reader, found: Footprint) -> list[Features]:
    """Training rows; with a teacher's logits where it tells classes apart, as ``runs.teaching`` computes them once."""
    rows = prepared.train.rows
    if not isinstance(prepared.objective, Classes) or prepared.objective.teacher is None:
        return rows
    group = _largest(rows, reader)
    with found.trace.phase("teacher", graph=False):
        read(prepared, [rows[i] for i in group])
    return [row | {LOGITS: [0.0] * len(prepared.task.labels)} for row in rows]


def _refer(prepared: Prepared, reader: Reader, found: Footprint) -> None:
    """Rows with log-probabilities of a reference, zeros, as ``runs.reference`` computes them before training."""
    if not keeps_reference(prepared.objective):
        return
    group = _largest(prepared.train.rows, reader)
    with found.trace.phase("reference", graph=False):
        reader.outputs(prepared.objective.reader, [prepared.train.rows[i] for i in group])
    found.referred = sum(size(prepared.train.rows[i]) for i in group)
    for side in (prepared.train, prepared.evaluation):
        side.rows = [row | {REFERENCE: [0.0] * sum(supervised_tokens(row))} for row in side.rows]


def _remember(prepared: Prepared, reader: Reader, found: Footprint) -> None:
    """What towers that do not train make of each picture and text once: as ``runs.training`` does, of the largest
    micro-batch. The rest is taken to be as large."""
    backbone, objective = prepared.backbone, prepared.objective
    roles = still_towers(prepared)
    if not roles:
        return
    rows = [*prepared.train.rows, *prepared.evaluation.rows]
    every = all_different(rows, roles)
    some = [every[i] for i in _largest(every, reader)]
    with found.trace.phase("cache", graph=False):
        batch = objective.collate(some)
        with reader.quietly():
            sizes = sketch.remember(cast(Any, backbone), rows, some, batch, roles)
    found.read_once = sum(size(row) for row in every) / max(1, sum(size(row) for row in some))
    if sizes:
        found.trace.borrow([sizes], "caches")


def _hidden(prepared: Prepared, reader: Reader, found: Footprint) -> list[Features]:
    """Rows with hidden states of the frozen trunk, fake ones, as ``runs.training`` caches them."""
    backbone = prepared.backbone
    every = [prepared.train.rows, prepared.evaluation.rows]
    with found.trace.phase("cache", graph=False):
        for rows in every:
            if rows:
                group = _largest(rows, reader)
                made = reader.hidden([rows[i] for i in group], backbone.reads)
                found.read += sum(size(rows[i]) for i in group)
                wide, kind = made[0].shape[-1], made[0].element_size()
                del made
                positions = [size(row) if backbone.reads == "all" else 1 for row in rows]
                total = sum(positions) * wide * kind
                found.trace.borrow([n * wide * kind for n in positions], "caches")
                _write(found.trace, [total], copies=3)
                found.cache_bytes += total

    def states(row: Features) -> Tensor:
        with found.trace.fake:
            return torch.empty(size(row) if backbone.reads == "all" else 1, wide)

    return _Lazily(prepared.train.rows, states, backbone.reads)


class _Lazily(list[Features]):
    """Rows whose hidden states are made when a row is asked for."""

    def __init__(self, rows: Sequence[Features], states: Any, reads: str):
        super().__init__(rows)
        self.states, self.reads = states, reads

    def __getitem__(self, index: Any) -> Any:
        row = super().__getitem__(index)
        return row | {"hidden_LD": self.states(row)}


def _solve(prepared: Prepared, reader: Reader, found: Footprint) -> None:
    """A method without gradients: vectors in batches, then a fit to all of them, in double precision."""
    pooling, width = prepared.adaptation.pooling, prepared.backbone.width
    with found.trace.phase("cache", graph=False):
        for rows in (prepared.train.rows, prepared.evaluation.rows):
            if rows:
                group = _largest(rows, reader)
                reader.vectors([rows[i] for i in group], pooling)
                found.read += sum(size(rows[i]) for i in group)
                found.tokens_of_largest = max(found.tokens_of_largest, sum(size(rows[i]) for i in group))
                found.cache_bytes += len(rows) * width * 4
        found.trace.borrow([found.cache_bytes], "caches")
        _write(found.trace, [found.cache_bytes], copies=3)
    with found.trace.phase("fit"):
        found.trace.give_back(found.trace.borrow([2 * found.cache_bytes] * 2))


def _write(trace: Trace, sizes: list[int], copies: int = 1) -> None:
    """What ``safetensors.torch.save`` holds: the bytes of each tensor, and all of them once more as one string."""
    taken = trace.borrow(sizes * copies)
    whole = trace.borrow([sum(sizes)])
    trace.give_back(taken)
    trace.give_back(whole)
