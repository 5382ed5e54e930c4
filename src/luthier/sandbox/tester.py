"""The process that runs the tests and says the verdict. No code of the candidate's ever runs here.

What the candidate answers is plain data, so that no object of its own can claim to equal what is expected.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from typing import Any

from confine import confine
from values import MOST, NotPlain, from_json, to_json


class Failed(BaseException):
    """The candidate's own failure; a test that catches every Exception does not catch it."""

    def __init__(self, outcome: str, said: str = ""):
        self.outcome, self.said = outcome, said


class Candidate:
    """Stands in for the function under test: each call is made in the candidate's process."""

    def __init__(self, asks: Any, answers: Any):
        self.asks, self.answers = asks, answers

    def tell(self, told: dict[str, Any]) -> None:
        try:
            self.asks.write(json.dumps(told).encode() + b"\n")
            self.asks.flush()
        except BrokenPipeError:
            raise Failed("exited", "the code ended its process") from None

    def answer(self) -> Any:
        line = self.answers.readline(MOST)
        if not line:
            raise Failed("exited", "the code ended its process, or used up its time or memory")
        if not line.endswith(b"\n"):
            raise Failed("error", f"an answer of more than {MOST:,} bytes")
        try:
            told = json.loads(line)
            if "raised" not in told:
                return from_json(told["value"]) if "value" in told else None
            name, said = str(told["raised"]), str(told["said"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Failed("error", "an answer that is no plain data") from None
        if name == "MemoryError":
            raise Failed("memory", said)
        if name in ("SyntaxError", "IndentationError", "TabError"):
            raise Failed("syntax", said)
        kind = vars(builtins).get(name)
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in (AssertionError, NotPlain):
            try:
                error = kind(said)
            except TypeError:  # one whose arguments are others
                raise Failed("error", f"{name}: {said}") from None
            raise error  # a test may expect it
        raise Failed("error", f"{name}: {said}")

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.tell({"arguments": [to_json(one) for one in arguments],
                   "named": {name: to_json(one) for name, one in named.items()}})  # fmt: skip
        return self.answer()


def judge(job: dict[str, Any], candidate: Candidate) -> tuple[str, str]:
    """(outcome, what was said): `passed`, `wrong` (an assertion failed) or what kept it from an answer."""
    space: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(compile(job["prompt"], "<prompt>", "exec"), space)  # what the tests may need of it, such as its imports
        space[job["entry_point"]] = candidate
        exec(compile(job["tests"], "<tests>", "exec"), space)
        if callable(check := space.get("check")):
            check(candidate)
    except Failed as failed:
        return failed.outcome, failed.said
    except AssertionError as error:
        return "wrong", str(error)[:500]
    except BaseException as error:
        return "error", f"{type(error).__name__}: {error}"[:500]
    return "passed", ""


def main() -> None:
    job = json.loads(sys.stdin.buffer.readline())
    asks, answers = os.fdopen(job.pop("asks"), "wb"), os.fdopen(job.pop("answers"), "rb")
    verdict = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nowhere, stream)
    confine(job["memory_mb"], job["seconds"])
    candidate = Candidate(asks, answers)
    try:
        candidate.tell({name: job[name] for name in ("source", "entry_point", "memory_mb", "seconds")})
        candidate.answer()  # it is ready, or why not
        outcome, said = judge(job, candidate)
    except Failed as failed:
        outcome, said = failed.outcome, failed.said
    except Exception as error:  # raised by the candidate as it was defined
        outcome, said = "error", f"{type(error).__name__}: {error}"[:500]
    verdict.write(json.dumps({"outcome": outcome, "said": said}).encode() + b"\n")
    verdict.flush()


if __name__ == "__main__":
    main()
