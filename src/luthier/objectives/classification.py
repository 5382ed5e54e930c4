"""Cross-entropy over classes, one class per row.

    L = Σ_k w_k · -log softmax(z_k)[y_k];  count = Σ_k w_k

References: Devlin et al. 2019 (arXiv 1810.04805), section 4.1. Needs: sequence logits (K, C). Rows are independent.
Targets: class ids 0..C-1. Relations: `multi_label` allows several classes a row, `regression` predicts numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.objectives.sequence import SequenceObjective
from luthier.options import Options as Section


class Options(Section):
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")


class Objective(SequenceObjective):
    target_type = torch.long

    def row_losses(self, logits_KC: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        smoothing = self.options.label_smoothing
        return F.cross_entropy(logits_KC, targets, reduction="none", label_smoothing=smoothing), 1
