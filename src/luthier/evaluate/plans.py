"""How well written plans are: whole, and step by step.

    step accuracy = |{i : step_i = reference_i}| / max(steps, reference steps)

A step counts where it stands, so that one left out costs all that follow it. Of several references the best counts.
Case and white space are not compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from luthier.evaluate.intervals import Metrics, mean_interval


def steps_of(text: str, between: str) -> list[str]:
    """The steps of a plan, empty ones left out. Where ``between`` is a blank, any white space parts them."""
    parts = text.split(between) if between.strip() or "\n" in between else text.split()
    return [" ".join(part.split()).casefold() for part in parts if part.strip()]


def step_accuracy(written: Sequence[str], reference: Sequence[str]) -> float:
    longest = max(len(written), len(reference))
    return sum(a == b for a, b in zip(written, reference, strict=False)) / longest if longest else 1.0


def with_intervals(written: Sequence[str], references: Sequence[Sequence[str]], between: str) -> Metrics:
    """``exact_match`` and ``step_accuracy`` (0 to 1), with bootstrap intervals."""
    exact, partly = [], []
    for text, known in zip(written, references, strict=True):
        steps, right = steps_of(text, between), [steps_of(one, between) for one in known]
        exact.append(float(steps in right))
        partly.append(max(step_accuracy(steps, one) for one in right))
    return {"exact_match": mean_interval(exact), "step_accuracy": mean_interval(partly)}
