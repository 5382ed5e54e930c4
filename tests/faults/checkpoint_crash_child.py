"""What a save is put through: a process to kill, calls to the system that fail, and a disk that loses power.

Run as a program it reads commands as JSON lines, runs each in a fork of itself (torch is imported once; each kill
hits a fork), and says when that fork has ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from luthier.engine import checkpoint
from luthier.types import Refused

RECIPE = "a1b2c3"
CHANGING_CALLS = ("mkdir", "open", "write", "fsync", "rename", "unlink", "rmdir")


def content(step: int, version: int = 0) -> dict[str, Any]:
    """What a run would save at a step: a pure function, so that anyone can tell whether it came back whole."""
    generator = torch.Generator().manual_seed(1000 * version + step)
    weight_DD = torch.randn(8, 8, generator=generator)
    moments = {"step": torch.tensor(float(step)), "moment": torch.randn(64, generator=generator).bfloat16()}
    state = {"cursor": {"epoch": 1, "row": 32 * step}, "version": version, "generator": generator.get_state().tolist()}
    return {"tensors": {"parameters": {"weight": weight_DD}, "optimizer": moments}, "state": state}


def is_whole(found: checkpoint.Checkpoint) -> bool:
    """Whether a loaded checkpoint is, bit for bit, one that ``content`` made."""
    expected = content(found.step, found.state["version"])
    return found.state == expected["state"] and all(
        same_tensors(found.tensors(name), group) for name, group in expected["tensors"].items()
    )


def same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def flip(path: Path, at: int = 40) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "deleted": os.unlink,
    "emptied": lambda path: os.truncate(path, 0),
}


class Crash(BaseException):
    """The process is gone: no handler of its own may do anything more."""


class Calls:
    """Stands between the process and the system: records each call that changes the disk, and fails at one."""

    def __init__(self, fail_at: int | None, moment: str, failure: BaseException):
        self.fail_at, self.moment, self.failure = fail_at, moment, failure
        self.count, self.dead = 0, False
        self.events: list[tuple[Any, ...]] = []
        self.paths: dict[int, Path] = {}

    def __call__(self, name: str, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if self.dead:
            raise self.failure
        hit, self.count = self.count == self.fail_at, self.count + 1
        if hit and self.moment == "before":
            self.fail()
        if hit and self.moment == "halfway" and name == "write":
            arguments = (arguments[0], arguments[1][: len(arguments[1]) // 2])
        result = real(*arguments, **options)
        self.record(name, result, arguments, options)
        if hit:
            self.fail()
        return result

    def fail(self) -> None:
        self.dead = isinstance(self.failure, Crash)
        raise self.failure

    def record(self, name: str, result: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if name in ("write", "fsync"):
            data = bytes(arguments[1][:result]) if name == "write" else b""
            self.events.append((name, self.paths[arguments[0]], data))
            return
        above = self.paths[options["dir_fd"]] if options.get("dir_fd") is not None else Path()
        path = above / arguments[0]
        if name == "open":
            self.paths[result] = path
            if not arguments[1] & os.O_CREAT:
                return
        self.events.append((name, path, Path(arguments[1]) if name == "rename" else None))


@contextmanager
def system(fail_at: int | None = None, moment: str = "before", failure: BaseException | None = None) -> Iterator[Calls]:
    """Every call of this process that changes the disk goes through ``Calls``, which makes one of them fail."""
    calls = Calls(fail_at, moment, failure or Crash())
    real = {name: getattr(os, name) for name in CHANGING_CALLS} | {"fsync": lambda descriptor: None}
    replaced: dict[str, Any] = {name: partial(calls, name, real[name]) for name in CHANGING_CALLS}
    with mock.patch.multiple(os, **replaced):
        yield calls


class Node:
    """A file or a folder: what the process sees (live) and what a power cut leaves for certain (durable)."""

    def __init__(self, live: Any):
        self.live, self.durable = live, type(live)()

    def write_out(self, path: Path) -> None:
        if isinstance(self.durable, bytes):
            path.write_bytes(self.durable)
            return
        path.mkdir()
        for name, node in self.durable.items():
            node.write_out(path / name)


def replay(events: list[tuple[Any, ...]], root: Path) -> tuple[Node, list[tuple[Node, str, Node | None, str]]]:
    """The disk after these calls, and the changes of folders that no fsync has made durable: each may be lost."""
    disk, pending = Node({}), []

    def at(path: Path) -> Node:
        node = disk
        for part in path.relative_to(root).parts:
            node = node.live[part]
        return node

    def change(path: Path, node: Node | None, new_name: str = "") -> None:
        folder = at(path.parent)
        folder.live.pop(path.name, None)
        if node:
            folder.live[new_name or path.name] = node
        pending.append((folder, path.name, node, new_name))

    for name, path, detail in events:
        if not path.is_relative_to(root):
            continue
        if name in ("mkdir", "open"):
            change(path, Node({} if name == "mkdir" else b""))
        elif name in ("unlink", "rmdir"):
            change(path, None)
        elif name == "rename":
            change(path, at(path), detail.name)
        elif name == "write":
            at(path).live += detail
        else:
            synced = at(path)
            synced.durable = synced.live if isinstance(synced.live, bytes) else dict(synced.live)
            pending = [entry for entry in pending if entry[0] is not synced]
    return disk, pending


class Child:
    """This file as a process, seen from the test that gives it commands and kills its forks."""

    def __init__(self) -> None:
        source = Path(checkpoint.__file__).parents[2]
        environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True, env=environment)

    def start(self, command: str, folder: Path) -> int:
        assert self.process.stdin
        self.process.stdin.write(json.dumps([command, str(folder)]) + "\n")
        self.process.stdin.flush()
        return self.hear()["pid"]

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=10)

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        assert self.hear() == {"ended": pid}


def save_forever(folder: Path) -> None:
    """Save and rotate until killed; each step that ``save`` acknowledged goes into a file beside the folder."""
    found, _ = checkpoint.latest(folder, RECIPE)
    step = found.step if found else 0
    acknowledged = os.open(folder.with_suffix(".acknowledged"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    while True:
        step += 1
        checkpoint.save(folder, step, **content(step), recipe_hash=RECIPE)
        os.write(acknowledged, f"{step}\n".encode())
        checkpoint.rotate(folder, keep=1, best_step=None)


def save_on_a_full_disk(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        tensors = {"parameters": {"weight": torch.zeros(10_000)}}
        checkpoint.save(folder, 20, tensors=tensors, state={}, recipe_hash=RECIPE)
    except Refused as refusal:
        say({"findings": [[finding.code, finding.what] for finding in refusal.findings]})


def hold_the_lock(folder: Path) -> None:
    with checkpoint.lock(folder):
        say({"holding": True})
        time.sleep(600)


COMMANDS: dict[str, Callable[[Path], None]] = {
    "save_forever": save_forever,
    "save_on_a_full_disk": save_on_a_full_disk,
    "hold_the_lock": hold_the_lock,
}


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    for line in sys.stdin:
        command, folder = json.loads(line)
        pid = os.fork()
        if pid == 0:
            say({"pid": os.getpid()})
            COMMANDS[command](Path(folder))
            os._exit(0)
        os.waitpid(pid, 0)
        say({"ended": pid})


if __name__ == "__main__":
    main()
