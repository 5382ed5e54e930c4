"""Who writes the answers of a rollout: the model that trains, with LoRA in its weights meanwhile; or a server.

The log-probabilities that are learned by are never the writer's: the trainer reads what was written by its own forward
pass, the adapter apart (``online/rollouts.py``). So at first the ratio is 1 and KL 0, however answers are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from luthier.engine.parallel import Processes
from luthier.methods.injected import merged
from luthier.models.backbone import Backbone
from luthier.objectives.online import OnlineObjective
from luthier.runs.online.served import Served, Server
from luthier.runs.prepared import Prepared
from luthier.types import Prompt

DTYPES = {"auto": (torch.float32,), "on": (torch.float32, torch.bfloat16, torch.float16), "off": ()}


class Writer(Protocol):
    """``round()`` is a context around all that is written with the same weights."""

    def round(self) -> Any: ...

    def written(self, prompts: Sequence[Prompt], seed: int) -> list[dict[str, Any]]:
        """An answer to each prompt: its ``ids`` with the terminator, and whether it ``finished``; of another model's
        also the ``logs``; and in the place of one that could not be had its ``findings``."""

    def apart(self, gaps: Sequence[Tensor]) -> dict[str, tuple[float, float]]:
        """What is told of the log-ratios of the model that trains to the one that wrote. Raises Refused."""


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

    def apart(self, gaps: Sequence[Tensor]) -> dict[str, tuple[float, float]]:
        return {}


def writer_of(prepared: Prepared, objective: OnlineObjective, backbone: Backbone, processes: Processes) -> Writer:
    """What the recipe says. Raises Refused where a server is to see pictures."""
    options, recipe = objective.options.server, prepared.resolved.recipe
    if options is None:
        return Own(objective, backbone)
    server = Server(options, f"{recipe.objective}.server")
    if any(row.get("pictures") for row in prepared.train.rows):
        raise server.refused("prompts have pictures, and are sent as tokens alone", "leave `server` out")
    folder = Path(recipe.out) / ".cache" / f"served-{prepared.identity[:12]}"
    return Served(objective, server, processes, folder, prepared.adaptation.save if options.adapter else None)
