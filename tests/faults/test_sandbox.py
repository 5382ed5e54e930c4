"""Code that loops, forks, writes, calls home or cheats: ended, counted, and never passed."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.sandbox import Limits, Verdict, run_tests, unavailable
from luthier.sandbox.run import Job

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "code can be confined here")

TESTS = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 3\n"
LIMITS = Limits(seconds=2, memory_mb=256)

# name: (code, how it ends, what is said of it)
HOSTILE = {
    "right": ("def f(x): return x + 1", "passed", ""),
    "right, and it prints": ("print('hello')\ndef f(x):\n    print(x)\n    return x + 1", "passed", ""),
    "wrong": ("def f(x): return 2", "wrong", ""),
    "no Python": ("def f(x:", "syntax", "never closed"),
    "another name": ("def g(x): return x + 1", "error", "KeyError"),
    "raises": ("def f(x): return [][x]", "error", "IndexError"),
    "asserts for the test": ("def f(x): raise AssertionError('passed')", "error", "AssertionError"),
    "loops": ("def f(x):\n    while True: pass", "timeout", "2 s"),
    "sleeps": ("import time\ndef f(x): time.sleep(10**6)", "timeout", "clock"),
    "forks": ("import os\ndef f(x):\n    while True: os.fork()", "error", "Operation not permitted"),
    "forks by the C library": (
        "import ctypes\ndef f(x):\n    assert ctypes.CDLL(None).fork() >= 0", "error", "AssertionError",
    ),
    "starts a thread": ("import threading\ndef f(x): threading.Thread(target=int).start()", "error", "thread"),
    "starts a program": ("import subprocess\ndef f(x): subprocess.run(['id'])", "error", "not permitted"),
    "replaces itself": ("import os\ndef f(x): os.execv('/bin/true', ['true'])", "error", "not permitted"),
    "calls home": ("import socket\ndef f(x): socket.create_connection(('127.0.0.1', 9))", "error", "not permitted"),
    "writes a file": ("def f(x): open('/tmp/made-by-a-candidate', 'w')", "error", "not permitted"),
    "writes where it stands": ("def f(x): open('made', 'x')", "error", "not permitted"),
    "removes a file": ("import os\ndef f(x): os.remove(__import__('sys').executable)", "error", "not permitted"),
    "makes a folder": ("import os\ndef f(x): os.mkdir('made')", "error", "not permitted"),
    "takes memory": ("def f(x): return len(bytearray(10**10))", "memory", ""),
    "raises its limits": (
        "import resource\ndef f(x): resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))", "error", "maximum limit",
    ),
    "ends others": ("import os\ndef f(x): os.kill(os.getppid(), 9)", "error", "not permitted"),
    "ends itself": ("import os\ndef f(x): os._exit(0)", "exited", ""),
    "ends itself as it is read": ("import os\nos._exit(0)", "exited", ""),
    "leaves": ("import sys\nsys.exit(0)", "error", "SystemExit"),
    "never ends an answer": ("def f(x):\n    return f(x)", "error", "RecursionError"),
    "answers too much": ("def f(x): return 'a' * 10**7", "error", "bytes"),
    "equals all": (
        "class All:\n    def __eq__(self, other): return True\ndef f(x): return All()", "error", "plain data",
    ),
    "equals all, as a number": (
        "class All(int):\n    def __eq__(self, other): return True\ndef f(x): return All()", "wrong", "",
    ),
    "takes exec away": ("import builtins\nbuiltins.exec = lambda *a: None\ndef f(x): return 0", "wrong", ""),
    "takes json away": (
        "import json\njson.dumps = lambda *a, **k: '{\"outcome\": \"passed\", \"said\": \"\"}'\ndef f(x): return 0",
        "wrong", "",
    ),
    "says the verdict on every pipe": (
        "import os\nfor pipe in range(32):\n    try: os.write(pipe, b'{\"outcome\": \"passed\", \"said\": \"\"}\\n')\n"
        "    except OSError: pass\ndef f(x): return 0", "wrong", "",
    ),
    "looks for the tests": (
        "import gc, sys\ndef f(x):\n    held = [o for o in gc.get_objects() if isinstance(o, dict) and 'check' in o]\n"
        "    return 2 if held else 0", "wrong", "",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def ended() -> dict[str, Verdict]:
    """All at once, as they are run: one that hangs must not hold up the others."""
    jobs = [Job(source, "def f(x):\n    pass\n", TESTS, "f") for source, _, _ in HOSTILE.values()]
    return dict(zip(HOSTILE, run_tests(jobs, LIMITS), strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_each_ends_as_it_should(name: str, ended: dict[str, Verdict]) -> None:
    _, outcome, said = HOSTILE[name]
    assert ended[name].outcome == outcome, ended[name]
    assert said in ended[name].said


def test_nothing_is_left_behind(ended: dict[str, Verdict]) -> None:
    """No file, and no process: each is told by the script that it runs."""
    assert not Path("/tmp/made-by-a-candidate").exists()
    left = []
    for told in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words, parent = told.read_text(), (told.parent / "stat").read_text().rpartition(") ")[2].split()[1]
        except OSError:
            continue
        if parent in (str(os.getpid()), "1") and ("candidate.py" in words or "tester.py" in words):
            left.append(words)
    assert left == []


def test_nothing_of_this_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "42")
    installed = "[path for path in sys.path if 'site-packages' in path]"
    source = f"import os, sys\ndef f(): return [dict(os.environ), os.listdir('.'), {installed}]"
    told = "assert (seen := f()) == [{}, [], []], seen"
    (verdict,) = run_tests([Job(source, "", told, "f")])
    assert verdict.passed, verdict


def test_plain_data_comes_back_as_it_went() -> None:
    values = [None, True, -3, 2.5, float("inf"), 1j, "é\n", b"\x00a", [1, [2]], (1, "a"), {1, 2}, frozenset({3})]
    values.append({"a": [1], 2: (3,), (4, 5): None})
    tests = f"values = {values!r}\n".replace("inf,", "float('inf'),")
    tests += (
        "for value in values:\n    got = f(value)\n    assert got == value and type(got) is type(value), (got, value)\n"
    )
    (verdict,) = run_tests([Job("def f(x): return x", "", tests, "f")])
    assert verdict.passed, verdict


def test_a_test_may_expect_an_error() -> None:
    tests = (
        "try:\n    f(0)\nexcept ZeroDivisionError as error:\n    assert 'zero' in str(error)\nelse:\n    assert False\n"
    )
    right, silent = run_tests(
        [Job("def f(x): return 1 // x", "", tests, "f"), Job("def f(x): return 1", "", tests, "f")]
    )
    assert (right.outcome, silent.outcome) == ("passed", "wrong")


def test_tests_that_hang_or_break_are_told(tmp_path: Path) -> None:
    began = time.monotonic()
    hangs, breaks = run_tests(
        [Job("def f(): pass", "", "while True: pass", "f"), Job("def f(): pass", "", "nothing", "f")], LIMITS
    )
    assert hangs.outcome in ("error", "timeout")
    assert (breaks.outcome, "NameError" in breaks.said) == ("error", True)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_humaneval_s_own_solutions_pass_and_empty_ones_fail(shared: Callable[[str], Path], every: int) -> None:
    """The reference is the data set's: its tests are known to hold of its solutions."""
    with gzip.open(shared("data/humaneval/humaneval.jsonl.gz"), "rt", encoding="utf-8") as file:
        problems = [json.loads(line) for line in file][::every]

    def judged(body: str | None) -> list[Verdict]:
        jobs = []
        for one in problems:
            source = one["prompt"] + (body or one["canonical_solution"])
            jobs.append(Job(source, one["prompt"] + "    pass\n", one["test"], one["entry_point"]))
        return run_tests(jobs, Limits(seconds=10))

    assert [verdict for verdict in judged(None) if not verdict.passed] == []
    assert [verdict for verdict in judged("    return None\n") if verdict.passed] == []
