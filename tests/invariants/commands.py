"""``luthier VERB ...`` as processes that a test may kill at any instant.

Run as a program it imports once, reads commands as JSON lines, runs each in a fork of itself (without import time,
so many kills are cheap) and says how that fork ended. ``fresh`` starts real interpreters instead.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

IMPORTS = (
    "luthier.runs.conduct", "luthier.runs.result", "luthier.evaluate.outputs", "luthier.evaluate.generate",
    "luthier.methods.full", "luthier.methods.lora", "luthier.tasks.classify", "luthier.tasks.chat",
    "luthier.objectives.classification", "luthier.objectives.next_token", "luthier.reports.trackers",
    "luthier.reports.card", "luthier.reports.html", "luthier.models.load", "accelerate", "peft", "sklearn",
)  # fmt: skip


class Command:
    """One ``luthier ...`` under way in a folder; what it prints goes to ``output.txt`` there."""

    def __init__(self, pid: int, ended: Callable[[float], int | None], folder: Path):
        self.pid, self.folder, self.code = pid, folder, None
        self._ended = ended

    def running(self, wait_s: float = 0.001) -> bool:
        if self.code is None:
            self.code = self._ended(wait_s)
        return self.code is None

    def send(self, number: int) -> None:
        if self.running(0.0):
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self) -> int:
        """Its exit code; a signal that killed it as a negative number."""
        while self.running(1.0):
            pass
        assert self.code is not None
        return self.code

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8")


class Forks:
    """This file as a process, and the commands that it forks, one at a time."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True, env=environment)

    def start(self, folder: Path, *arguments: str) -> Command:
        assert self.process.stdin
        self.process.stdin.write(json.dumps([str(folder), arguments]) + "\n")
        self.process.stdin.flush()
        return Command(self._hear()["pid"], self._ended, folder)

    def run(self, folder: Path, *arguments: str) -> int:
        return self.start(folder, *arguments).end()

    def _ended(self, wait_s: float) -> int | None:
        ready, _, _ = select.select([self.process.stdout], [], [], wait_s)
        return self._hear()["code"] if ready else None

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=30)


def fresh(folder: Path, *arguments: str) -> Command:
    """``python -m luthier ...`` in an interpreter of its own."""
    with (folder / "output.txt").open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "luthier", *arguments], cwd=folder, stdout=output, stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def ended(wait_s: float) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(wait_s or 1e-6)
        return None

    return Command(process.pid, ended, folder)


def _run(folder: str, arguments: list[str]) -> int:
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from luthier.cli.main import main

    try:
        main(arguments)
    except SystemExit as ended:
        sys.stdout.flush()
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1


def serve() -> None:
    from importlib import import_module

    for name in IMPORTS:
        import_module(name)
    said = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        folder, arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os._exit(_run(folder, arguments))
        said.write(json.dumps({"pid": pid}) + "\n")
        said.flush()
        _, status = os.waitpid(pid, 0)
        said.write(json.dumps({"code": os.waitstatus_to_exitcode(status)}) + "\n")
        said.flush()


if __name__ == "__main__":
    serve()
