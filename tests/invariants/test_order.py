"""Promise 6: which rows make which step is a pure function of (seed, epoch, data hash), whatever else is so."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import Trial, Wrapped, classify_rows, ready

from luthier.engine import checkpoint
from luthier.engine.batching import Order, micro_batches
from luthier.engine.parallel import Processes


def order(rows: int = 21, batch_size: int = 4, seed: int = 3, data_hash: str = "d") -> Order:
    return Order(rows, batch_size, seed, data_hash)


def epochs(made: Order, count: int = 3) -> list[list[list[int]]]:
    return [[made.step(e * made.steps_per_epoch + s) for s in range(made.steps_per_epoch)] for e in range(count)]


@pytest.mark.parametrize(("rows", "batch_size"), [(21, 4), (8, 8), (5, 8), (1, 1), (64, 1)])
def test_each_epoch_visits_each_row_once(rows: int, batch_size: int) -> None:
    made = order(rows, batch_size)
    assert made.steps_per_epoch == math.ceil(rows / batch_size)
    for epoch in epochs(made):
        assert sorted(row for step in epoch for row in step) == list(range(rows))
        assert all(len(step) == batch_size for step in epoch[:-1])


def test_epochs_seeds_and_data_each_have_their_own_order() -> None:
    first, second, third = epochs(order())
    assert first != second != third
    assert epochs(order(seed=4))[0] != first
    assert epochs(order(data_hash="e"))[0] != first
    assert epochs(order()) == [first, second, third]


def test_any_step_can_be_asked_for_first() -> None:
    """Resuming asks for a step without those before it; and steps may be asked for in any order."""
    steps = [step for epoch in epochs(order()) for step in epoch]
    asked = list(range(len(steps)))
    random.Random(0).shuffle(asked)
    made = order()
    assert all(made.step(step) == steps[step] for step in asked)
    assert all(order().step(step) == steps[step] for step in asked)


def cases(count: int = 400) -> list[tuple[list[int], int, bool, int]]:
    """(lengths, budget, padded, at_least), ragged in every way: one giant, all alike, a budget below a row."""
    choose, made = random.Random(0), []
    for _ in range(count):
        longest = choose.choice([1, 3, 40, 500])
        lengths = [choose.randint(1, longest) for _ in range(choose.randint(1, 40))]
        if choose.random() < 0.3:
            lengths[choose.randrange(len(lengths))] = 900
        made.append((lengths, choose.choice([1, 16, 100, 4096]), choose.random() < 0.5, choose.choice([1, 1, 2, 3, 8])))
    return made


def cost(group: list[int], lengths: list[int], padded: bool) -> int:
    inside = [lengths[i] for i in group]
    return max(inside) * len(inside) if padded else sum(inside)


def test_micro_batches_hold_every_row_once_within_the_budget() -> None:
    for lengths, budget, padded, at_least in cases():
        groups = micro_batches(lengths, budget, padded=padded, at_least=at_least)
        assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
        assert all(len(group) == 1 or cost(group, lengths, padded) <= budget for group in groups)
        assert len(groups) >= min(at_least, len(lengths))
        assert groups == micro_batches(list(lengths), budget, padded=padded, at_least=at_least)


def test_no_rows_make_no_micro_batch() -> None:
    assert micro_batches([], 100, padded=True) == []


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_the_processes_share_out_each_global_batch_whole(world: int) -> None:
    """Whatever the world, the rows of a step are those of ``Order``: each on one process, none twice."""
    lengths = [random.Random(0).randint(1, 30) for _ in range(21)]
    made = order()
    for step in range(made.steps_per_epoch):
        rows = made.step(step)
        groups = micro_batches([lengths[i] for i in rows], 64, padded=True, at_least=world)
        shares = []
        for rank in range(world):
            process = Processes()
            process.rank, process.world = rank, world
            shares.append([rows[i] for _, group in process.share(groups) for i in group])
        assert Counter(row for share in shares for row in share) == Counter(rows)
        assert all(shares[: min(world, len(rows))])


def test_the_loop_takes_those_rows_at_any_budget_and_after_any_resume(tiny_folder: Any, tmp_path: Path) -> None:
    prepared = ready(tiny_folder("bert"), "classify", classify_rows(11), tmp_path, method="freeze")
    made, seen = Trial(prepared, tmp_path), []

    def collate(rows: list[Any]) -> Any:
        seen.extend(row["row"] for row in rows)
        return prepared.objective.collate(rows)

    def visited(**changes: Any) -> list[set[int]]:
        """The rows of each step, as the loop collated them."""
        seen.clear()
        trained = made.fit(objective=Wrapped(prepared.objective, collate=collate), steps=6, batch_size=4, **changes)
        sizes = iter(record["rows"] for record in trained.records)
        rest = iter(seen)
        return [{next(rest) for _ in range(size)} for size in sizes]

    expected = Order(11, 4, 0, "data")
    steps = [set(expected.step(step)) for step in range(6)]
    folder = tmp_path / "kept"
    assert visited(save_every=1, keep=9, folder=folder) == steps
    assert visited(micro_tokens=1) == steps
    for step in range(1, 6):
        found, _ = checkpoint.latest(folder, "hash", step=step)
        assert visited(resume=found) == steps[step:]
