"""Squared error: a number per row.

    L = Σ_k w_k · (z_k - y_k)²;  count = Σ_k w_k

Needs: sequence logits (K, 1). Targets: numbers, as given. Relations: `classification` predicts a class.
"""

from __future__ import annotations

from torch import Tensor

from luthier.objectives.sequence import SequenceObjective
from luthier.options import Options as Section


class Options(Section):
    pass


class Objective(SequenceObjective):
    def row_losses(self, logits_KC: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        return (logits_KC[:, 0] - targets).square(), 1
