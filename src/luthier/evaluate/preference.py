"""How often the better answer gets the higher reward, and by how much: implicit rewards, or a reward model's scores.

Each row is ``{"chosen": ..., "rejected": ...}``, two rewards, or one of them alone; with a reference also ``kl`` and
``tokens``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from luthier.evaluate.intervals import Metrics, interval

# The metrics, and whether higher is better.
METRICS = {
    "preference_accuracy": True, "reward_margin": True, "chosen_reward": True, "rejected_reward": False, "kl": False,
}  # fmt: skip
Output = dict[str, float]


def plain(outputs: Sequence[Output]) -> dict[str, float]:
    return _measured(outputs, np.arange(len(outputs)))


def with_intervals(outputs: Sequence[Output]) -> Metrics:
    """The same with 95 % intervals over rows."""
    found: Metrics = {}
    for name in plain(outputs):
        found[name] = interval(partial(_one, outputs, name), len(outputs))
    return found


def _one(outputs: Sequence[Output], name: str, rows: np.ndarray) -> float:
    return _measured(outputs, rows)[name]


def _measured(outputs: Sequence[Output], rows: np.ndarray) -> dict[str, float]:
    """Of the rows with these numbers. Equal rewards are half right; ``kl`` is in nats per token.

    Where a row has one answer, every liked one is held against every other (the area under the ROC curve).
    """
    some = [outputs[at] for at in rows]
    chosen, rejected = (np.array([one[side] for one in some if side in one]) for side in ("chosen", "rejected"))
    paired = all("chosen" in one and "rejected" in one for one in some)
    apart = chosen - rejected if paired else chosen[:, None] - rejected[None]
    means = [float(rewards.mean()) if len(rewards) else float("nan") for rewards in (chosen, rejected)]
    found = {
        "preference_accuracy": float((np.sign(apart) / 2 + 0.5).mean()) if apart.size else float("nan"),
        "reward_margin": means[0] - means[1], "chosen_reward": means[0], "rejected_reward": means[1],
    }  # fmt: skip
    if all("kl" in one for one in some):
        found["kl"] = sum(one["kl"] for one in some) / max(1.0, sum(one["tokens"] for one in some))
    return found
