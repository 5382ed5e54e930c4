"""What the three objectives on a whole row share: one vector of logits per row, from the classification head.

Axes: K rows, C classes (or targets).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from luthier.models.backbone import Backbone
from luthier.types import Batch, Example, Features, LossTerms


class SequenceObjective:
    """Encodes a row as ids and a target, and lays rows out; a subclass says what the loss of (logits, targets) is."""

    needs = "sequence_logits"
    couples = False
    target_type = torch.float32

    def __init__(self, options: Any, backbone: Backbone, encoder: Callable[[Example], list[Features]]):
        """``encoder(example) -> [features]`` is the task's; the target of an unlabelled row is None."""
        self.options, self.backbone, self.encoder = options, backbone, encoder

    def encode(self, example: Example) -> list[Features]:
        return self.encoder(example)

    def units(self, features: Features) -> int:
        return 1

    def collate(self, rows: list[Features]) -> Batch:
        """Rows ``[a b]`` with target 2 and ``[c]`` with target 0, packed:

        input_ids [[a b c]]   starts [0 2]   lengths [2 1]   targets [2 0]   weights [1 1]
        """
        tensors = self.backbone.lay_out(rows)
        if rows[0]["target"] is not None:
            tensors["targets"] = torch.tensor([row["target"] for row in rows], dtype=self.target_type)
        tensors["weights"] = torch.tensor([row["weight"] for row in rows], dtype=torch.float32)
        return Batch(tensors, [row["row"] for row in rows], int(tensors["lengths"].sum()))

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        logits_KC = backbone.sequence_logits(backbone.hidden(batch), batch).float()
        losses_K, units = self.row_losses(logits_KC, batch["targets"])
        return LossTerms((losses_K * batch["weights"]).sum(), float(batch["weights"].sum()) * units)

    def row_losses(self, logits_KC: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        """(K,) losses, each a sum over a row's units, and how many units a row has."""
        raise NotImplementedError

    def mean_loss(self, outputs: list[list[float]], rows: list[Features]) -> float:
        """The loss of outputs made before, per unit."""
        targets = torch.tensor([row["target"] for row in rows], dtype=self.target_type)
        losses_K, units = self.row_losses(torch.tensor(outputs), targets)
        return float(losses_K.mean()) / units

    def outputs(self, backbone: Backbone, batch: Batch) -> list[list[float]]:
        """Logits of each row."""
        return backbone.sequence_logits(backbone.hidden(batch), batch).float().tolist()
