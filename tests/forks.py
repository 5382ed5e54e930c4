"""Python programs in forks of one process that has imported what they need: processes of their own, without the time of
their imports. Nothing is opened, drawn or remembered in it before it forks.

Run as a program it reads requests as JSON lines, runs each in a fork of itself and says how that fork ended.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import Any

IMPORTS = (
    "luthier.runs.conduct", "luthier.runs.result", "luthier.evaluate.outputs", "luthier.evaluate.generate",
    "luthier.methods.full", "luthier.methods.lora", "luthier.tasks.classify", "luthier.tasks.chat",
    "luthier.objectives.classification", "luthier.objectives.next_token", "luthier.reports.trackers",
    "luthier.reports.card", "luthier.reports.html", "luthier.models.load", "accelerate", "peft", "sklearn",
)  # fmt: skip
SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}


class Forks:
    """This file as a process, and the programs that it forks, one at a time."""

    def __init__(self) -> None:
        pipe, environment = subprocess.PIPE, os.environ | SETTINGS
        # Not buffered: what is told of an end may lie behind what was told of the start, where `select` can't see it.
        self.process = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, bufsize=0, env=environment)

    def start(
        self, script: str, *arguments: str, folder: Path, out: Path, err: Path, given: str = os.devnull, **more: str
    ) -> int:
        """The process id of ``script`` under way in a folder; its standard input is the file ``given``, what it prints
        is added to files, and its environment has ``more``."""
        request = {"script": script, "arguments": arguments, "folder": str(folder), "environment": more}
        self._say(request | {"files": [given, str(out), str(err)]})
        return self._hear()["pid"]

    def ended(self, wait_s: float) -> int | None:
        """The exit code of what was started, a signal that killed it as a negative number; None while it runs."""
        ready, _, _ = select.select([self.process.stdout], [], [], wait_s)
        return self._hear()["code"] if ready else None

    def run(
        self, script: str, *arguments: str, folder: Path, given: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as made:
            stdin, out, err = (Path(made) / name for name in ("in", "out", "err"))
            stdin.write_text(given, encoding="utf-8")
            self.start(script, *arguments, folder=folder, out=out, err=err, given=str(stdin), **more)
            while (code := self.ended(60.0)) is None:
                pass
            texts = [path.read_text(encoding="utf-8") for path in (out, err)]
        return subprocess.CompletedProcess(script, code, *texts)

    def _say(self, request: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request).encode() + b"\n")

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=30)


@cache
def forks() -> Forks:
    """Started once for all tests of a process."""
    made = Forks()
    atexit.register(made.close)
    return made


def _run(request: dict[str, Any]) -> int:
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    given, *printed = request["files"]
    os.dup2(os.open(given, os.O_RDONLY), 0)
    for number, path in enumerate(printed, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), number)
    sys.stdin, sys.argv = os.fdopen(0, encoding="utf-8", closefd=False), ["-c", *request["arguments"]]
    sys.path.insert(0, "")
    try:
        exec(compile(request["script"], "<script>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    return 0


def serve() -> None:
    from importlib import import_module

    for name in IMPORTS:
        import_module(name)
    said = os.fdopen(os.dup(1), "wb", buffering=0)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os._exit(_run(json.loads(line)))
        said.write(json.dumps({"pid": pid}).encode() + b"\n")
        _, status = os.waitpid(pid, 0)
        said.write(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode() + b"\n")


if __name__ == "__main__":
    serve()
