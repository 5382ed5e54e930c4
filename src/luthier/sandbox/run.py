"""From code and its tests to verdicts: processes are started, bounded in time, and ended."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.sandbox.confine import supported
from luthier.types import Finding, Refused

OUTCOMES = ("passed", "wrong", "error", "syntax", "timeout", "memory", "exited")
WAITING = 5.0  # seconds by the clock, besides those of the limit: two interpreters start, on a machine that may be busy


@dataclass(frozen=True)
class Limits:
    """Of one run: seconds of each process on the processor (and ``WAITING`` more by the clock, for code that sleeps),
    megabytes of its address space."""

    seconds: float = 5.0
    memory_mb: int = 512


@dataclass(frozen=True)
class Verdict:
    """``outcome``: one of OUTCOMES; ``said``: the error's own words, where there is one."""

    outcome: str
    said: str = ""

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


@dataclass(frozen=True)
class Job:
    """``source`` is the code, ``prompt`` what its problem gave (valid Python), ``tests`` what must hold of
    ``entry_point``: a function ``check(candidate)``, or assertions."""

    source: str
    prompt: str
    tests: str
    entry_point: str


def run_tests(jobs: Sequence[Job], limits: Limits | None = None, workers: int | None = None) -> list[Verdict]:
    """A verdict for each. Raises Refused where processes can't be confined here: nothing is run unconfined."""
    if why := unavailable():
        raise Refused(Finding("task.sandbox", "sandbox", f"code is not run here: {why}", "use a Linux machine"))
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(functools.partial(_run, limits=limits or Limits()), jobs))


@functools.cache
def unavailable() -> str:
    """Why code can't be run confined on this machine; empty where it was tried and holds."""
    if why := supported():
        return why
    # Each must be refused by the kernel; `tests` see what the code answers.
    tried = """
import os, socket
def attempts():
    done = []
    for name, attempt in (
        ("a socket", lambda: socket.socket()), ("a process", lambda: os.fork()), ("a signal", lambda: os.kill(1, 0)),
        ("a file", lambda: open("made", "w")), ("a folder", lambda: os.mkdir("made")),
    ):
        try:
            attempt()
            done.append(name)
        except OSError:
            pass
    return done + sorted(os.environ)
"""
    found = _run(Job(tried, "", "assert (left := attempts()) == [], left", "attempts"), Limits())
    return "" if found.passed else f"a process that should be confined is not: {found.outcome}, {found.said}"


def _run(job: Job, limits: Limits) -> Verdict:
    with (
        tempfile.TemporaryDirectory(prefix="luthier-sandbox-") as empty,
        _processes(empty) as (tester, candidate, ends),
    ):
        told: dict[str, Any] = {
            "asks": ends[0], "answers": ends[1], "memory_mb": limits.memory_mb, "seconds": math.ceil(limits.seconds),
            "source": job.source, "prompt": job.prompt, "tests": job.tests, "entry_point": job.entry_point,
        }  # fmt: skip
        try:
            out, _ = tester.communicate(json.dumps(told).encode() + b"\n", timeout=limits.seconds + WAITING)
        except subprocess.TimeoutExpired:
            return Verdict("timeout", f"no answer in {limits.seconds + WAITING:g} s by the clock")
        if not out:
            return Verdict("error", "the tests ended without a verdict: they used up time or memory themselves")
        verdict = Verdict(**json.loads(out))
        if verdict.outcome == "exited" and _ended_by(candidate) in (signal.SIGXCPU, signal.SIGKILL):
            return Verdict("timeout", f"no answer in {limits.seconds:g} s on the processor")
        return verdict


def _ended_by(process: subprocess.Popen[bytes]) -> int:
    """The signal that ended it, 0 where none did."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return max(0, -process.wait(timeout=1.0))
    return 0


@contextlib.contextmanager
def _processes(folder: str) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes], tuple[int, int]]]:
    """Tester, candidate, and the tester's ends of the pipes to and from it. Both are ended on the way out."""
    ask_read, ask_write = os.pipe()
    answer_read, answer_write = os.pipe()
    started: list[subprocess.Popen[bytes]] = []
    try:
        candidate = _start("candidate", folder, stdin=ask_read, stdout=answer_write)
        started.append(candidate)
        pipe = subprocess.PIPE
        tester = _start("tester", folder, stdin=pipe, stdout=pipe, pass_fds=(ask_write, answer_read))
        started.append(tester)
        for end in (ask_read, ask_write, answer_read, answer_write):
            os.close(end)
        yield tester, candidate, (ask_write, answer_read)
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()


def _start(name: str, folder: str, **given: Any) -> subprocess.Popen[bytes]:
    """A script of this folder in a process group of its own, with no environment and no site-packages."""
    here = str(Path(__file__).parent)
    script = f"{here}/{name}.py"
    begin = f"import sys, runpy; sys.path.insert(0, {here!r}); runpy.run_path({script!r}, run_name='__main__')"
    command = [sys.executable, "-I", "-S", "-B", "-c", begin]
    return subprocess.Popen(
        command, cwd=folder, env={}, stderr=subprocess.DEVNULL, start_new_session=True, close_fds=True, **given
    )
