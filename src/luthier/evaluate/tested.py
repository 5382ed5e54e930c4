"""Unit tests as a reward: 1 where the function that an answer holds passes its problem's tests, else 0.

The tests are run in the sandbox (``sandbox/``), where the verdict is said by a process in which none of the model's
code runs: an answer can fail, and can't talk its way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.evaluate import code
from luthier.sandbox import Limits, run_tests
from luthier.sandbox.run import Job

if TYPE_CHECKING:
    from luthier.evaluate.rewards import Answer

INSTRUCTION = "Complete this Python function.\n\n"
"""Before a function that is begun, as `task: code` asks for it."""


def passes(answers: Sequence[Answer]) -> list[float]:
    """Of answers whose rows have a problem with tests. Raises Refused where nothing can be confined."""
    jobs = []
    for answer in answers:
        assert answer.problem is not None
        begun = str(answer.prompt[-1]["content"]).removeprefix(INSTRUCTION)
        source = code.source_of(answer.text, begun, answer.problem.entry_point, goes_on=False)
        jobs.append(Job(source, code.stub(begun), answer.problem.tests, answer.problem.entry_point))
    return [float(verdict.passed) for verdict in run_tests(jobs, Limits())]
