"""Who writes the answers of a rollout: the model that trains, with LoRA in its weights meanwhile.

The log-probabilities that are learned by are never the writer's: the trainer reads what was written by its own forward
pass, the adapter apart (``runs/rollouts.py``). So at the first step the ratio is 1 and KL 0, however answers are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from luthier.methods.injected import merged
from luthier.models.backbone import Backbone
from luthier.objectives.online import OnlineObjective
from luthier.types import Prompt

DTYPES = {"auto": (torch.float32,), "on": (torch.float32, torch.bfloat16, torch.float16), "off": ()}


class Writer(Protocol):
    """``round()`` is a context around all that is written with the same weights."""

    def round(self) -> Any: ...

    def written(self, prompts: Sequence[Prompt], seed: int) -> list[dict[str, Any]]:
        """An answer to each prompt: its ``ids`` with the terminator, and whether it ``finished``."""


class Own:
    """The model that trains."""

    def __init__(self, objective: OnlineObjective, backbone: Backbone):
        self.objective, self.backbone = objective, backbone

    @contextmanager
    def round(self) -> Iterator[None]:
        with merged(self.backbone.model, DTYPES[self.objective.options.merge]):
            yield

    def written(self, prompts: Sequence[Prompt], seed: int) -> list[dict[str, Any]]:
        return self.objective.write(self.backbone, prompts, self.objective.options.temperature, seed)
