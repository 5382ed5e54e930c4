"""Checkpoints under kills, power cuts, full disks and damaged files: the old one or the new one, whole, always."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_crash_child import DAMAGES, RECIPE, Child, Crash, content, flip, is_whole, replay, same_tensors, system

from luthier.engine import checkpoint
from luthier.types import Refused

FILES = ("parameters.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def save(folder: Path, step: int, version: int = 0, recipe_hash: str = RECIPE) -> Path:
    return checkpoint.save(folder, step, **content(step, version), recipe_hash=recipe_hash)


def identity(folder: Path) -> tuple[int, int] | None:
    """(step, version) of the latest checkpoint, after asserting that it is whole and that nothing was skipped."""
    found, findings = checkpoint.latest(folder, RECIPE)
    assert findings == []
    assert found is None or is_whole(found)
    return (found.step, found.state["version"]) if found else None


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith((".tmp", ".del"))]


@pytest.mark.parametrize("moment", ["before", "halfway", "after"])
@pytest.mark.parametrize(
    ("before", "saved"), [([], (10, 0)), ([(10, 0)], (20, 0)), ([(10, 0)], (10, 1))], ids=["first", "next", "again"]
)
def test_a_crash_at_any_call_leaves_the_old_or_the_new(
    tmp_path: Path, before: list[tuple[int, int]], saved: tuple[int, int], moment: str
) -> None:
    """Save and rotate, dying at the first call, then at the second, ... until one run lives to its end."""
    for fail_at in range(1000):
        folder = tmp_path / str(fail_at)
        folder.mkdir()
        with system():
            for step, version in before:
                save(folder, step, version)
        with system(fail_at, moment) as calls, suppress(Crash):
            save(folder, *saved)
            checkpoint.rotate(folder, keep=1, best_step=None)
        published = any(name == "rename" for name, *_ in calls.events)
        assert identity(folder) == (saved if published else before[-1] if before else None)
        assert leftovers(folder) == []
        with system():
            save(folder, 30)
        assert identity(folder) == (30, 0)
        if calls.count <= fail_at:
            break
    assert fail_at > 20
    assert len(list(folder.iterdir())) == 2  # rotation left one; step 30 is the other


def test_a_crash_while_leftovers_are_removed_is_harmless(tmp_path: Path) -> None:
    for fail_at in range(1000):
        folder = tmp_path / str(fail_at)
        with system():
            shutil.copytree(save(folder, 10), folder / f".tmp-20-{os.getpid()}")
            shutil.copytree(folder / "step-00000010", folder / ".del-step-00000005-1")
        with system(fail_at) as calls, suppress(Crash):
            checkpoint.latest(folder, RECIPE)
        assert identity(folder) == (10, 0)
        assert leftovers(folder) == []
        if calls.count <= fail_at:
            return


def test_the_temporary_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f".tmp-20-{os.getppid()}").mkdir()
    assert identity(tmp_path) is None
    assert len(leftovers(tmp_path)) == 1


def test_each_step_of_a_save_waits_for_the_one_before(tmp_path: Path) -> None:
    with system() as calls:
        save(tmp_path, 10)
        calls.events.clear()
        published = save(tmp_path, 20)
        checkpoint.rotate(tmp_path, keep=1, best_step=None)
    temporary = tmp_path / f".tmp-20-{os.getpid()}"
    order = [(name, path) for name, path, _ in calls.events]
    manifest = temporary / "manifest.json"
    for name in FILES[:3]:
        written = max(at for at, event in enumerate(order) if event == ("write", temporary / name))
        assert written < order.index(("fsync", temporary / name)) < order.index(("open", manifest))
    promised = [("write", manifest), ("fsync", manifest), ("fsync", temporary), ("rename", temporary)]
    promised += [("fsync", tmp_path), ("rename", tmp_path / "step-00000010")]
    positions = [order.index(event) for event in promised]
    assert positions == sorted(positions)
    assert all(at > positions[-1] for at, (name, _) in enumerate(order) if name in ("unlink", "rmdir"))
    assert published == tmp_path / "step-00000020"


def test_a_power_cut_loses_nothing_that_was_promised(tmp_path: Path) -> None:
    """After each call, for every subset of what was not fsynced: the old or the new; once ``save`` is back, the new."""
    root, returned = tmp_path / "run", []
    with system() as calls:
        root.mkdir()
        calls.events.clear()
        for step in (10, 20):
            save(root, step)
            returned.append(len(calls.events))
        checkpoint.rotate(root, keep=1, best_step=None)
    for length in range(returned[0], len(calls.events) + 1):
        _, pending = replay(calls.events[:length], root)
        for survives in product([False, True], repeat=len(pending)):
            disk, changes = replay(calls.events[:length], root)
            for folder, name, node, new_name in (entry for entry, kept in zip(changes, survives, strict=True) if kept):
                folder.durable.pop(name, None)
                if node:
                    folder.durable[new_name or name] = node
            disk.write_out(tmp_path / "after")
            step, _ = identity(tmp_path / "after") or (0, 0)
            assert step in ((20,) if length >= returned[1] else (10, 20))
            shutil.rmtree(tmp_path / "after")


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()


def test_kill_minus_nine_at_random_instants(tmp_path: Path, child: Child) -> None:
    """Twelve kills: never less than the last save that returned, at most the one under way, bit for bit."""
    draw, folder, reached, awaited = random.Random(0), tmp_path / "run", 0, 0
    for _ in range(12):
        pid = child.start("save_forever", folder)
        awaited = reached + draw.randint(0, 2)
        until = time.monotonic() + 60
        while acknowledged(folder) < awaited and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(draw.uniform(0.005, 0.05))
        child.kill(pid)
        returned = acknowledged(folder)
        reached = (identity(folder) or (0, 0))[0]
        assert returned >= awaited
        assert reached in (returned, returned + 1)
        assert not folder.exists() or leftovers(folder) == []


def acknowledged(folder: Path) -> int:
    """The last save that returned; 0 before the first."""
    told = folder.with_name("run.acknowledged")
    return int((told.read_text().split() or ["0"])[-1]) if told.exists() else 0


def test_a_file_size_limit_is_told_like_a_full_disk(tmp_path: Path, child: Child) -> None:
    """A limit of 4096 bytes a file, 10,000 fp32 numbers to write: at least 40,000 bytes are needed."""
    save(tmp_path, 10)
    child.start("save_on_a_full_disk", tmp_path)
    [[code, what]] = child.hear()["findings"]
    child.hear()
    needed, free = (int(word) for word in what.split() if word.isdigit() and int(word) > 20)
    assert code == "checkpoint.disk"
    assert 40_000 <= needed <= 41_000
    assert free > 0
    assert identity(tmp_path) == (10, 0)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_call_of_a_save_is_told_and_tidied(tmp_path: Path, number: int) -> None:
    """A full disk is refused with what is needed; any other error is raised as it is; the old one stays.

    From the second call on: the first makes the run's folder, which is there already.
    """
    for fail_at in range(1, 1000):
        folder = tmp_path / str(fail_at)
        with system():
            save(folder, 10)
        raised: BaseException | None = None
        with system(fail_at, failure=OSError(number, os.strerror(number))) as calls:
            try:
                save(folder, 20)
            except (Refused, OSError) as error:
                raised = error
        if calls.count <= fail_at:
            break
        if number == errno.ENOSPC:
            assert isinstance(raised, Refused)
            assert [finding.code for finding in raised.findings] == ["checkpoint.disk"]
        else:
            assert isinstance(raised, OSError)
            assert raised.errno == number
        assert leftovers(folder) == []
        published = any(name == "rename" for name, *_ in calls.events)
        assert identity(folder) == ((20, 0) if published else (10, 0))
    assert fail_at > 15


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_falls_back_to_the_one_before_and_is_named(tmp_path: Path, name: str, damage: str) -> None:
    older, newer = save(tmp_path, 10), save(tmp_path, 20)
    DAMAGES[damage](newer / name)
    found, findings = checkpoint.latest(tmp_path, RECIPE)
    assert found is not None
    assert found.folder == older
    assert is_whole(found)
    assert [(finding.code, finding.where, finding.severity) for finding in findings] == [
        ("checkpoint.damaged", str(newer), "warning")
    ]
    assert name in findings[0].what
    DAMAGES[damage](older / name)
    found, findings = checkpoint.latest(tmp_path, RECIPE)
    assert found is None
    assert [finding.where for finding in findings] == [str(newer), str(older)]


def test_every_flipped_byte_of_manifest_and_state_is_seen(tmp_path: Path) -> None:
    folder = save(tmp_path, 10)
    for name in ("manifest.json", "state.json"):
        for at in range(0, (folder / name).stat().st_size, 1 if name == "manifest.json" else 97):
            flip(folder / name, at)
            found, findings = checkpoint.latest(tmp_path, RECIPE)
            assert found is None, (name, at)
            assert name in findings[0].what
            flip(folder / name, at)
    assert identity(tmp_path) == (10, 0)


def test_other_recipe_other_format_and_swapped_folder_are_skipped(tmp_path: Path) -> None:
    save(tmp_path, 10)
    save(tmp_path, 20, recipe_hash="other")
    shutil.copytree(tmp_path / "step-00000010", tmp_path / "step-00000030")
    manifest = shutil.copytree(tmp_path / "step-00000010", tmp_path / "step-00000040") / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    found, findings = checkpoint.latest(tmp_path, RECIPE)
    assert found is not None
    assert found.step == 10
    assert found == checkpoint.latest(tmp_path, None, step=10)[0]
    assert "not of format 1" in findings[0].what
    assert "says step 10" in findings[1].what
    assert "other recipe" in findings[2].what
    other, _ = checkpoint.latest(tmp_path, None)
    assert other is not None
    assert other.step == 20
    found, [absent] = checkpoint.latest(tmp_path, None, step=11)
    assert found is None
    assert "missing" in absent.what
    assert checkpoint.latest(tmp_path / "nowhere", None) == (None, [])


def test_rotation_against_a_model_of_sets(tmp_path: Path) -> None:
    """Random sequences of save, best, damage and rotate; after each rotation what is left is what this set says.

    A checkpoint is (step, copy). With V the valid ones, L those whose sizes are right, last = max V, sound = L up to
    last, and of each step only the highest copy: keep the newest ``keep`` of sound and the best; with V empty, all.
    Where no copy of the best is sound, its damaged ones stay too.
    """
    choose, rotations = random.Random(0), 0
    tensors = {"parameters": {"weight": torch.zeros(4)}}
    for sequence in range(400):
        folder = tmp_path / str(sequence)
        folder.mkdir()
        valid: set[tuple[int, int]] = set()
        looking: set[tuple[int, int]] = set()
        present: dict[tuple[int, int], Path] = {}
        best = None
        for _ in range(choose.randint(3, 9)):
            action = choose.choice(["save", "save", "save", "best", "flip", "truncate", "rotate"])
            if action == "save":
                step = choose.randint(1, 6)
                with system():
                    path = checkpoint.save(folder, step, tensors=tensors, state={}, recipe_hash=RECIPE)
                entry = (step, max((copy for other, copy in present if other == step), default=0) + 1)
                present[entry] = path
                valid.add(entry)
                looking.add(entry)
            elif action == "best" and valid:
                best = choose.choice(sorted(valid))[0]
            elif action in ("flip", "truncate") and valid:
                entry = choose.choice(sorted(valid))
                DAMAGES["flipped" if action == "flip" else "truncated"](present[entry] / "parameters.safetensors")
                valid.discard(entry)
                looking -= {entry} if action == "truncate" else set()
            elif action == "rotate":
                keep, rotations = choose.randint(0, 3), rotations + 1
                checkpoint.rotate(folder, keep, best)
                left = {entry: path for entry, path in present.items() if path.exists()}
                assert left.keys() == expected_to_stay(present.keys(), valid, looking, keep, best)
                assert set(left.values()) == set(folder.iterdir())
                present, valid, looking = left, valid & left.keys(), looking & left.keys()
    assert rotations > 250


def expected_to_stay(present: Any, valid: Any, looking: Any, keep: int, best: int | None) -> set[tuple[int, int]]:
    if not valid:
        return set(present)
    sound = {entry for entry in looking if entry <= max(valid)}
    highest = {(step, max(copy for same, copy in sound if same == step)) for step, _ in sound}
    stay = set(sorted(highest)[-max(keep, 1) :]) | {entry for entry in highest if entry[0] == best}
    return stay if best in {step for step, _ in stay} else stay | {entry for entry in present if entry[0] == best}


def test_rotation_leaves_another_recipe_alone(tmp_path: Path) -> None:
    """A stale run with higher steps must not push out the present one."""
    for step, recipe_hash in [(100, "stale"), (200, "stale"), (1, RECIPE), (2, RECIPE)]:
        save(tmp_path, step, recipe_hash=recipe_hash)
    checkpoint.rotate(tmp_path, keep=1, best_step=None, recipe_hash=RECIPE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000100", "step-00000200"]


def test_awkward_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    """Tied, sliced, nested, strided, expanded, scalar, empty and half-precision tensors, and trainable ones."""
    base_N = torch.arange(12.0)
    group = {
        "whole": base_N, "tied": base_N, "left": base_N[:6], "right": base_N[6:], "inner": base_N[2:4],
        "even": base_N[::2], "turned": base_N.view(3, 4).T, "wide": base_N[:3].expand(2, 3), "scalar": torch.tensor(7),
        "empty": base_N[:0], "half": base_N.bfloat16(), "flags": base_N > 3, "trained": torch.nn.Parameter(base_N + 1),
    }  # fmt: skip
    checkpoint.save(tmp_path, 1, tensors={"parameters": group, "none": {}}, state={"é": [1.5]}, recipe_hash=RECIPE)
    found, findings = checkpoint.latest(tmp_path, RECIPE)
    assert found is not None
    assert found.state == {"é": [1.5]}
    assert findings == []
    assert same_tensors(found.tensors("parameters"), group)
    assert found.tensors("none") == {}


def test_only_overlapping_or_strided_tensors_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(checkpoint.safetensors.torch, "save", lambda group: handed.update(group) or b"")
    base_N = torch.arange(12.0)
    group = {"left": base_N[:6], "right": base_N[6:], "tied": base_N[:6], "even": base_N[::2]}
    checkpoint._serialise(group)
    same_memory = {name for name in group if handed[name].data_ptr() == group[name].data_ptr()}
    assert same_memory == {"left", "right"}


def test_space_needed_is_a_close_upper_bound(tmp_path: Path) -> None:
    tensors = content(10)["tensors"]
    written = sum(path.stat().st_size for path in save(tmp_path, 10).glob("*.safetensors"))
    assert written <= checkpoint.space_needed(tensors) <= written + 4 * 256


def test_a_second_process_is_refused_until_the_holder_is_killed(tmp_path: Path, child: Child) -> None:
    pid = child.start("hold_the_lock", tmp_path / "run")
    assert child.hear() == {"holding": True}
    with pytest.raises(Refused) as refusal, checkpoint.lock(tmp_path / "run"):
        pass
    assert [finding.code for finding in refusal.value.findings] == ["run.locked"]
    assert f"pid {pid}" in refusal.value.findings[0].what
    child.kill(pid)
    with checkpoint.lock(tmp_path / "run"):
        pass
    with checkpoint.lock(tmp_path / "run"):
        pass
