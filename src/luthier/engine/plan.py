"""The numbers that a run goes by, and those that change as it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from luthier.data.mixing import Mixture

Emit = Callable[[dict[str, Any]], None]
"""Takes a record of a step, an evaluation or an event."""


@dataclass(frozen=True)
class Plan:
    """The numbers of the loop, all resolved."""

    steps: int
    batch_size: int
    learning_rate: float
    schedule: str
    warmup: int
    weight_decay: float
    max_grad_norm: float
    micro_tokens: int
    eval_every: int
    save_every: int
    patience: int | None
    keep: int
    seed: int
    metric: str
    higher_is_better: bool
    precision: str
    matmul: str
    recipe_hash: str
    data_hash: str
    final: str = "best"
    mixture: Mixture | None = None
    uncut: bool = False
    """A step's rows are one micro-batch in each process and never cut, as their own statistics are what they are
    normalised with."""


@dataclass
class Progress:
    """What changes from step to step; with parameters and optimizer state it is a checkpoint."""

    step: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    skipped: int = 0
    tokens: int = 0
    seconds: float = 0.0
    stopped: str = ""
    micro_tokens: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
