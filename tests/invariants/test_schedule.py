"""Promise 5: the learning rate is a pure function of the optimizer step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from helpers import Trial, classify_rows, ready

from luthier.engine import checkpoint
from luthier.engine.schedule import learning_rate, warmup_steps

PEAK = 0.9


def rates(schedule: str, total: int, warmup: int) -> list[float]:
    return [learning_rate(PEAK, schedule, step, total, warmup) for step in range(total)]


def test_linear_by_hand() -> None:
    """Two steps of warm-up: 1/3 and 2/3 of 0.9; then (8 - s)/6 of 0.9 for s = 2..7: 0.9, 0.75, ..., 0.15.

    The last step is the last but one point of the line: a step at rate 0 would be a step wasted.
    """
    assert rates("linear", 8, 2) == pytest.approx([0.3, 0.6, 0.9, 0.75, 0.6, 0.45, 0.3, 0.15])


def test_cosine_by_hand() -> None:
    """Over 4 steps, progress 0, 1/4, 1/2, 3/4: (1 + cos πp)/2 = 1, (1 + √½)/2, 1/2, (1 - √½)/2."""
    half = math.sqrt(0.5)
    assert rates("cosine", 4, 0) == pytest.approx([0.9, 0.45 * (1 + half), 0.45, 0.45 * (1 - half)])
    assert rates("cosine", 5, 1) == pytest.approx([0.45, 0.9, 0.45 * (1 + half), 0.45, 0.45 * (1 - half)])


def test_constant_by_hand() -> None:
    assert rates("constant", 5, 3) == pytest.approx([0.225, 0.45, 0.675, 0.9, 0.9])


def test_warm_up_is_a_share_below_one_and_a_number_of_steps_from_one_on() -> None:
    assert [warmup_steps(w, 50) for w in (0, 0.06, 0.05, 1, 7, 80)] == [0, 3, 3, 1, 7, 50]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (7, 7), (30, 4)])
def test_it_rises_then_never_rises_again_and_is_never_zero(schedule: str, total: int, warmup: int) -> None:
    found = rates(schedule, total, warmup)
    assert all(0 < rate <= PEAK for rate in found)
    assert found[: warmup + 1] == sorted(found[: warmup + 1])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)


def test_the_loop_follows_it_and_a_resumed_run_follows_the_same(tiny_folder: Any, tmp_path: Path) -> None:
    made = Trial(ready(tiny_folder("bert"), "classify", classify_rows(8), tmp_path, method="freeze"), tmp_path)
    asked = {"steps": 8, "learning_rate": PEAK, "schedule": "linear", "warmup": 2, "save_every": 3}
    whole = made.fit(**asked, keep=9)
    found, _ = checkpoint.latest(whole.folder, "hash", step=3)
    resumed = made.fit(**asked, resume=found)
    expected = [0.3, 0.6, 0.9, 0.75, 0.6, 0.45, 0.3, 0.15]
    for trained, start in ((whole, 0), (resumed, 3)):
        told = [(record["step"], record["learning_rate"]) for record in trained.records]
        assert [step for step, _ in told] == list(range(start + 1, 9))
        assert [rate for _, rate in told] == pytest.approx(expected[start:])
