"""Promise 2: killed at any instant, the same command goes on, and the weights are those of the run never killed."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Command, Forks, fresh
from helpers import chat_rows, classify_rows, final_sha256, records, train_steps, write_recipe

import tiny

STEPS = 10
KILLS = 7  # of one run
# Model, task and keys of a short run with dropout on, evaluated and saved at different steps.
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "classify, full": ("bert", "classify", {"method": "full", "save_every": 1, "eval_every": 3}),
    "chat, lora": ("llama", "chat", {"method": "lora", "lora": {"dropout": 0.2}, "save_every": 2, "eval_every": 5}),
    "chat, adalora": ("llama", "chat", {"method": "adalora", "lora": {"rank": 2}, "save_every": 2, "eval_every": 5}),
}
Start = Callable[[Path], Command]


def make(folder: Path, kind: str, tiny_folder: Any) -> Path:
    """A folder with a recipe and its rows; returns where its run will be."""
    model, task, keys = RUNS[kind]
    rows = (classify_rows if task == "classify" else chat_rows)(20)
    folder.mkdir(parents=True)
    data = {"train": tiny.write_jsonl(folder / "train.jsonl", rows[:14])}
    data["eval"] = tiny.write_jsonl(folder / "eval.jsonl", rows[14:])
    write_recipe(folder, task=task, model=tiny_folder(model), data=data, steps=STEPS, batch_size=4, name="run",
                 micro_tokens=24, learning_rate=1e-3, final="last", **keys)  # fmt: skip
    return folder / "runs" / "run"


def kill_points(seed: int, count: int) -> list[tuple[int, float]]:
    """(step, seconds after it) of each life: before the first step, between any two, or while the end is written."""
    choose = random.Random(seed)
    steps = sorted(choose.sample(range(STEPS + 1), count))
    return [(step, choose.uniform(0.0, {0: 1.0, STEPS: 0.5}.get(step, 0.08))) for step in steps]


def kill(start: Start, folder: Path, run: Path, step: int, after_s: float) -> Command:
    """Start it, and SIGKILL it so long after it wrote the metrics of ``step`` in this life."""
    path = run / "metrics.jsonl"
    before = path.stat().st_ino if path.is_file() else None  # resuming writes the file anew
    command = start(folder)
    while step and command.running():
        if path.is_file() and path.stat().st_ino != before and step in train_steps(run):
            break
    time.sleep(after_s)
    command.send(signal.SIGKILL)
    command.end()
    return command


def assert_as_never_killed(run: Path, expected: Path) -> None:
    assert final_sha256(run) == final_sha256(expected)
    assert train_steps(run) == list(range(1, STEPS + 1))
    told = {(record["kind"], record["step"]): record for record in records(run) if record["kind"] != "event"}
    for record in records(expected):
        if record["kind"] != "event":
            assert told[record["kind"], record["step"]]["loss"] == record["loss"]


def survive(folder: Path, expected: Path, start: Start, kind: str, tiny_folder: Any, seed: int) -> int:
    """Kill a run again and again, let it finish, and compare; returns how many of the kills found it alive.

    On a busy machine a life may reach its end before the kill: the run is then over.
    """
    run, hits = make(folder, kind, tiny_folder), 0
    for step, after_s in kill_points(seed, KILLS):
        command = kill(start, folder, run, step, after_s)
        assert command.code in (0, -signal.SIGKILL), command.output
        if command.code == 0:
            break
        hits += 1
    command = start(folder)
    assert command.end() == 0, command.output
    assert_as_never_killed(run, expected)
    return hits


def survive_all(wanted: int, folder: Path, expected: Path, start: Start, kind: str, tiny_folder: Any) -> None:
    """As many runs as it takes for ``wanted`` kills."""
    hits = 0
    for seed in range(wanted):
        hits += survive(folder / str(seed), expected, start, kind, tiny_folder, seed)
        if hits >= wanted:
            return
    raise AssertionError(f"only {hits} of {wanted} kills found the run alive")


@pytest.fixture(scope="module")
def never_killed(forks: Forks, tiny_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def expected(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("whole") / "work"
            made[kind] = make(folder, kind, tiny_folder)
            command = forks.start(folder, "tune", "recipe.yaml")
            assert command.end() == 0, command.output
        return made[kind]

    return expected


@pytest.mark.parametrize("kind", RUNS)
def test_killed_13_times_and_gone_on(
    kind: str, forks: Forks, tiny_folder: Any, never_killed: Any, tmp_path: Path
) -> None:
    """With those of the other kinds, 39 random instants."""

    def start(folder: Path) -> Command:
        return forks.start(folder, "tune", "recipe.yaml")

    survive_all(13, tmp_path, never_killed(kind), start, kind, tiny_folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_real_command_killed_at_25_instants(kind: str, tiny_folder: Any, never_killed: Any, tmp_path: Path) -> None:
    def start(folder: Path) -> Command:
        return fresh(folder, "tune", "recipe.yaml")

    survive_all(25, tmp_path, never_killed(kind), start, kind, tiny_folder)
