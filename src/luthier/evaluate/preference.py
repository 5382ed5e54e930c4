"""How often the better answer gets the higher reward, and by how much: implicit rewards, or a reward model's scores.

Each pair is ``{"chosen": ..., "rejected": ...}``, two rewards; with a reference also ``kl`` and ``tokens``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from luthier.evaluate.intervals import Metrics, interval, mean_interval

# The metrics, and whether higher is better.
METRICS = {
    "preference_accuracy": True, "reward_margin": True, "chosen_reward": True, "rejected_reward": False, "kl": False,
}  # fmt: skip
Output = dict[str, float]


def right(output: Output) -> float:
    """1 where the chosen answer has the higher reward, a half where both have the same."""
    return float(np.sign(output["chosen"] - output["rejected"]) / 2 + 0.5)


PER_PAIR: dict[str, Callable[[Output], float]] = {
    "preference_accuracy": right,
    "reward_margin": lambda output: output["chosen"] - output["rejected"],
    "chosen_reward": lambda output: output["chosen"],
    "rejected_reward": lambda output: output["rejected"],
}


def plain(outputs: Sequence[Output]) -> dict[str, float]:
    found = {name: float(np.mean([of(output) for output in outputs])) for name, of in PER_PAIR.items()}
    if all("kl" in output for output in outputs):
        found["kl"] = sum(output["kl"] for output in outputs) / max(1.0, sum(output["tokens"] for output in outputs))
    return found


def with_intervals(outputs: Sequence[Output]) -> Metrics:
    """The same with 95 % intervals over pairs; ``kl`` in nats per token."""
    found: Metrics = {name: mean_interval([of(output) for output in outputs]) for name, of in PER_PAIR.items()}
    if all("kl" in output for output in outputs):
        kl, tokens = (np.array([output[key] for output in outputs]) for key in ("kl", "tokens"))
        found["kl"] = interval(lambda i: kl[i].sum() / max(tokens[i].sum(), 1), len(outputs))
    return found
