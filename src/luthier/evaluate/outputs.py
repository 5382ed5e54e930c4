"""Outputs of a model for every row, and vectors of rows; in the order of the rows, leaving no trace in the model.

Axes: K rows, D hidden width, T tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from luthier.engine.accumulate import row_groups
from luthier.engine.parallel import Processes
from luthier.engine.precision import autocast, matmul_route
from luthier.models.backbone import Backbone
from luthier.models.joined.dual import DualBackbone
from luthier.models.joined.multimodal import MultimodalBackbone
from luthier.models.modes import evaluating
from luthier.models.pooling import pool
from luthier.types import Batch, Features

BOTH = {"vision", "text"}
MICRO_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Tokens that are computed at a time, by kind of device, where nobody said."""


@dataclass(frozen=True)
class Reader:
    """Runs a model over rows in token-budget batches, in evaluation mode, without gradients.

    With ``processes`` the batches are shared among them, and every one gets all results.
    """

    backbone: Backbone
    micro_tokens: int
    precision: str = "fp32"
    matmul: str = "default"
    processes: Processes | None = None

    def outputs(self, objective: Any, rows: Sequence[Features]) -> list[Any]:
        """``objective.outputs`` of every row."""
        found: dict[int, Any] = {}
        for indices in self._groups(rows):
            batch = objective.collate([rows[i] for i in indices]).to(self.backbone.device)
            with self.quietly():
                found.update(zip(indices, objective.outputs(self.backbone, batch), strict=True))
        return self._together(found, len(rows))

    def remember(self, objective: Any, rows: Sequence[Features], frozen: set[str] = BOTH) -> None:
        """Let the model keep what its ``frozen`` towers, by role, make of these rows."""
        for indices in self._groups(rows):
            some = [rows[i] for i in indices]
            batch = objective.collate(some).to(self.backbone.device)
            with self.quietly():
                cast(DualBackbone | MultimodalBackbone, self.backbone).remember(some, batch, frozen)

    def vectors(self, rows: Sequence[Features], pooling: str) -> Tensor:
        """One fp32 vector per row, (K, D): the mean over its tokens, or its first or last token."""
        found: dict[int, Tensor] = {}
        for indices in self._groups(rows):
            batch = self._batch([rows[i] for i in indices])
            with self.quietly():
                pooled_KD = pool(self.backbone.hidden(batch).float(), batch, pooling).cpu()
            found.update(zip(indices, pooled_KD, strict=True))
        return torch.stack(self._together(found, len(rows)))

    def hidden(self, rows: Sequence[Features], reads: str) -> list[Tensor]:
        """The hidden states that a head reads of each row: (1, D) for "first" and "last", (L, D) for "all"."""
        found: dict[int, Tensor] = {}
        for indices in self._groups(rows):
            batch = self._batch([rows[i] for i in indices])
            with self.quietly():
                hidden_TD = self.backbone.hidden(batch).cpu()
            starts, lengths = batch["starts"].tolist(), batch["lengths"].tolist()
            for i, start, length in zip(indices, starts, lengths, strict=True):
                chosen = {"first": slice(start, start + 1), "last": slice(start + length - 1, start + length)}
                found[i] = hidden_TD[chosen.get(reads, slice(start, start + length))].clone()
        return self._together(found, len(rows))

    def mixing(self, weigh: Callable[[Batch], Tensor], rows: Sequence[Features]) -> Tensor:
        """``weigh(batch)`` (K, layers, members) of every row: how much each fused adapter counts."""
        found: dict[int, Tensor] = {}
        for indices in self._groups(rows):
            batch = self._batch([rows[i] for i in indices])
            with self.quietly():
                found.update(zip(indices, weigh(batch).float().cpu(), strict=True))
        return torch.stack(self._together(found, len(rows)))

    def _batch(self, rows: list[Features]) -> Batch:
        tensors = self.backbone.lay_out(rows)
        return Batch(tensors, [row["row"] for row in rows]).to(self.backbone.device)

    def _groups(self, rows: Sequence[Features]) -> Iterator[list[int]]:
        groups = row_groups(rows, self.micro_tokens, padded=self.backbone.layout == "padded")
        yield from (group for _, group in (self.processes.share(groups) if self.processes else enumerate(groups)))

    def _together(self, found: dict[int, Any], count: int) -> list[Any]:
        if self.processes and self.processes.world > 1:
            found = dict(self.processes.gather(list(found.items())))  # type: ignore[arg-type]
        return [found[i] for i in range(count)]

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """As a model is read: in evaluation mode, without gradients, in the run's precision."""
        with (
            evaluating(self.backbone.model),
            torch.no_grad(),
            matmul_route(self.matmul),
            autocast(self.precision, self.backbone.device),
        ):
            yield
