"""What stops a run from outside, and damage done while it was stopped: the same command goes on to the same bytes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Command, Forks, fresh
from helpers import classify_rows, final_sha256, records, train_steps, wait_for, write_recipe

import tiny

STEPS = 40  # long enough that a busy machine still finds it running


def make(folder: Path, model: str, **keys: Any) -> Path:
    """A recipe of a short run with dropout, without evaluation; returns where its run will be."""
    folder.mkdir(parents=True)
    data = {"train": tiny.write_jsonl(folder / "train.jsonl", classify_rows(14)), "eval": 0.0}
    asked = {"steps": STEPS, "batch_size": 4, "save_every": 4, "learning_rate": 1e-3, "method": "full", "name": "run"}
    write_recipe(folder, task="classify", model=model, data=data, **{**asked, **keys})
    return folder / "runs" / "run"


@pytest.fixture(scope="module")
def whole(forks: Forks, tiny_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "work"
    run = make(folder, tiny_folder("bert"))
    command = forks.start(folder, "tune", "recipe.yaml")
    assert command.end() == 0, command.output
    return run


def events(run: Path, name: str) -> list[dict[str, Any]]:
    return [record for record in records(run) if record.get("event") == name]


def goes_on(forks: Forks, run: Path, whole: Path) -> str:
    """The same command again: it finishes, with the bytes of the run that nothing stopped; returns what it said."""
    command = forks.start(run.parents[1], "tune", "recipe.yaml")
    assert command.end() == 0, command.output
    assert final_sha256(run) == final_sha256(whole)
    assert train_steps(run) == list(range(1, STEPS + 1))
    return command.output


def real(folder: Path) -> Command:
    return fresh(folder, "tune", "recipe.yaml")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits(
    number: int, code: int, forks: Forks, tiny_folder: Any, whole: Path, tmp_path: Path
) -> None:
    run = make(tmp_path / "work", tiny_folder("bert"))
    command = forks.start(tmp_path / "work", "tune", "recipe.yaml")
    wait_for(1, command, run)
    command.send(number)
    assert command.end() == code
    done = train_steps(run)[-1]
    assert 1 <= done < STEPS
    assert (run / "checkpoints" / f"step-{done:08d}").is_dir()
    assert '"status": "stopped"' in (run / "run.json").read_text()
    assert "the same command goes on" in command.output
    assert "Traceback" not in command.output
    assert f"resumed after step {done}" in goes_on(forks, run, whole)


def test_a_real_command_is_stopped_by_a_signal(forks: Forks, tiny_folder: Any, whole: Path, tmp_path: Path) -> None:
    """In an interpreter of its own, and gone on in another."""
    run = make(tmp_path / "work", tiny_folder("bert"))
    command = real(tmp_path / "work")
    wait_for(2, command, run)
    command.send(signal.SIGTERM)
    assert command.end() == 143
    assert len(train_steps(run)) < STEPS
    goes_on(forks, run, whole)


def test_a_second_signal_ends_at_once_and_is_safe(forks: Forks, tiny_folder: Any, whole: Path, tmp_path: Path) -> None:
    for pause in (0.0, 0.002, 0.01):
        run = make(tmp_path / str(pause), tiny_folder("bert"))
        command = forks.start(run.parents[1], "tune", "recipe.yaml")
        wait_for(5, command, run)
        command.send(signal.SIGTERM)
        time.sleep(pause)
        command.send(signal.SIGTERM)
        assert command.end() in (130, 143)
        goes_on(forks, run, whole)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit in the weights": lambda newest: flip(newest / "parameters.safetensors"),
    "a flipped bit in the optimizer": lambda newest: flip(newest / "optimizer.safetensors"),
    "no optimizer": lambda newest: (newest / "optimizer.safetensors").unlink(),
    "a manifest cut off": lambda newest: (newest / "manifest.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    damage: str, forks: Forks, tiny_folder: Any, whole: Path, tmp_path: Path
) -> None:
    run = make(tmp_path / "work", tiny_folder("bert"))
    command = forks.start(tmp_path / "work", "tune", "recipe.yaml")
    wait_for(9, command, run)
    command.send(signal.SIGKILL)
    command.end()
    older, newest = sorted((run / "checkpoints").glob("step-*"))[-2:]
    DAMAGES[damage](newest)
    said = goes_on(forks, run, whole)
    step = int(older.name.removeprefix("step-"))
    [event] = events(run, "checkpoint-skipped")
    assert newest.name in event["text"]
    assert "can't be used" in event["text"]
    assert newest.name in said.replace("\n", "")
    assert f"resumed after step {step}" in said


def test_with_every_checkpoint_damaged_it_begins_again_and_says_so(
    forks: Forks, tiny_folder: Any, whole: Path, tmp_path: Path
) -> None:
    run = make(tmp_path / "work", tiny_folder("bert"))
    command = forks.start(tmp_path / "work", "tune", "recipe.yaml")
    wait_for(9, command, run)
    command.send(signal.SIGKILL)
    command.end()
    damaged = sorted((run / "checkpoints").glob("step-*"))
    for path in damaged:
        flip(path / "parameters.safetensors")
    goes_on(forks, run, whole)
    assert len(events(run, "checkpoint-skipped")) == len(damaged)


def test_a_finished_run_is_not_run_again(forks: Forks, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    command = forks.start(whole.parents[1], "tune", "recipe.yaml")
    assert command.end() == 0, command.output
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before


def test_a_changed_recipe_has_a_folder_of_its_own(forks: Forks, tiny_folder: Any, tmp_path: Path) -> None:
    """No checkpoint of another recipe is ever taken: each recipe goes on in its own folder."""
    run = make(tmp_path / "work", tiny_folder("bert"), steps=2, save_every=1)
    assert forks.run(tmp_path / "work", "tune", "recipe.yaml") == 0
    assert forks.run(tmp_path / "work", "tune", "recipe.yaml", "learning_rate=2e-3") == 0
    assert train_steps(run.with_name("run-2")) == [1, 2]
    assert final_sha256(run) != final_sha256(run.with_name("run-2"))
