"""Binary cross-entropy per class: a row may have several labels, or none.

    L = Σ_k Σ_c w_k · -[y_kc log σ(z_kc) + (1 - y_kc) log(1 - σ(z_kc))];  count = C · Σ_k w_k

The count makes it the mean over rows and classes, as torch's BCEWithLogitsLoss. Needs: sequence logits (K, C).
Targets: 0 or 1, shape (K, C). Relations: `classification` allows one class a row.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from luthier.objectives.sequence import SequenceObjective
from luthier.options import Options as Section


class Options(Section):
    pass


class Objective(SequenceObjective):
    def row_losses(self, logits_KC: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        losses_KC = F.binary_cross_entropy_with_logits(logits_KC, targets, reduction="none")
        return losses_KC.sum(1), logits_KC.shape[1]
