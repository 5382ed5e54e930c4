"""What the objectives share whose rows are learned from together: each row's vectors, settled when all rows are seen.

Axes: K rows, U vectors of a batch, D their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from luthier.types import Features

JUDGED = 512  # rows of a batch in which held-out rows are judged: a loss among more would be another one


class Coupled:
    """A subclass has ``vectors`` and ``coupled_loss`` (see ``engine/coupled.py``), ``row_losses`` and ``settle``."""

    couples = True
    parameters: dict[str, nn.Parameter]
    held: Sequence[nn.Parameter] = ()
    """Numbers of the model that are the loss's, and are not to train."""

    def after_step(self) -> None:
        """Called once weights have changed."""

    def row_losses(self, vectors_UD: Tensor, rows: Sequence[Features]) -> tuple[Tensor, Tensor]:
        """(K,) losses and (K,) weights."""
        raise NotImplementedError

    @torch.no_grad()
    def judged_losses(self, outputs: Sequence[Tensor], rows: Sequence[Features]) -> list[float]:
        """Of each row, in batches of ``JUDGED`` rows; ``outputs`` has the vectors of each row."""
        losses: list[float] = []
        for start in range(0, len(rows), JUDGED):
            some = rows[start : start + JUDGED]
            losses += self.row_losses(torch.cat(list(outputs[start : start + JUDGED])), some)[0].tolist()
        return losses

    def mean_loss(self, outputs: list[dict[str, Any]], rows: list[Features]) -> float:
        """Of settled outputs."""
        weights = [row["weight"] for row in rows]
        total = sum(weight * out.get("loss", 0.0) for weight, out in zip(weights, outputs, strict=True))
        return total / max(sum(weights), 1e-12)
