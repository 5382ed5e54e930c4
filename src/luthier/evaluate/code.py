"""Code that was written: taken out of an answer, run against its tests, and pass@k.

pass@k is the chance that of k answers at least one passes, by the unbiased estimator of Chen et al. 2021
(arXiv 2107.03374), equation 1.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence

from luthier.evaluate.intervals import Metrics, mean_interval
from luthier.sandbox import OUTCOMES, Verdict

FENCED = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)
# Where a function that was gone on with is over: the paper's, section 2.1.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@", "\nassert")


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k), of ``samples`` n of which ``passed`` c do pass."""
    if not 0 < k <= samples:
        raise ValueError(f"pass@{k} is told by at least {k} samples, there are {samples}")
    missed = 1.0
    for i in range(samples - passed + 1, samples + 1):
        missed *= max(0.0, 1 - k / i)
    return 1 - missed


def with_intervals(verdicts: Sequence[Sequence[Verdict]], ks: Sequence[int]) -> Metrics:
    """pass@k over problems, each with the verdicts of its samples; and how many samples ended how."""
    found: Metrics = {}
    for k in ks:
        per_problem = [pass_at_k(len(some), sum(one.passed for one in some), k) for some in verdicts]
        found[f"pass@{k}"] = mean_interval(per_problem)
    ended = Counter(one.outcome for some in verdicts for one in some)
    total = ended.total()
    for outcome in OUTCOMES:
        if ended[outcome]:
            found[f"tests: {outcome}"] = {"value": ended[outcome] / total, "n": total}
    return found


def source_of(answer: str, prompt: str, entry_point: str, *, goes_on: bool) -> str:
    """The whole source that an answer stands for: the prompt as it goes on, or the function that it holds.

    The prompt stands before an answer that begins the function anew, with what it imports and defines.
    """
    if goes_on:
        ends = [at for at in (answer.find(stop) for stop in STOPS) if at >= 0]
        return prompt + answer[: min(ends, default=len(answer))]
    fenced = FENCED.findall(answer)
    taken = next((block for block in fenced if f"def {entry_point}" in block), fenced[0] if fenced else answer)
    if f"def {entry_point}" in taken:
        return f"{stub(prompt)}\n\n{taken}"
    if not taken[:1].isspace():  # a target loses the white space before it: the body stands as far in as its docstring
        last = prompt.rstrip().rpartition("\n")[2]
        taken = last[: len(last) - len(last.lstrip())] + taken
    return prompt + taken


def stub(prompt: str) -> str:
    """The prompt as a source of its own: a function that is begun needs a body."""
    return prompt if is_python(prompt) else f"{prompt.rstrip()}\n    pass\n"


def is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True
