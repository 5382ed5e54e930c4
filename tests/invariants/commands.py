"""``luthier VERB ...`` as processes that a test may kill at any instant.

In a fork of a process that has imported (``forks.py``), so that many kills are cheap; ``fresh`` starts real
interpreters instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import forks

SCRIPT = "import sys\nfrom luthier.cli.main import main\nmain(sys.argv[1:])"


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
    """One command at a time."""

    def __init__(self) -> None:
        self.server = forks.forks()

    def start(self, folder: Path, *arguments: str) -> Command:
        output = folder / "output.txt"
        pid = self.server.start(SCRIPT, *arguments, folder=folder, out=output, err=output)
        return Command(pid, self.server.ended, folder)

    def run(self, folder: Path, *arguments: str) -> int:
        return self.start(folder, *arguments).end()


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
