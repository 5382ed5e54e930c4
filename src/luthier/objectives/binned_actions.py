"""Cross-entropy over bins: each number of a chunk of actions is a class, one of B equal parts of its range.

    L = Σ_k w_k Σ_n m_kn · -log softmax(z_kn)[bin(y_kn)],  bin(y) = min(B - 1, ⌊B (y + 1) / 2⌋)
    count = Σ_k w_k Σ_n m_kn

with y scaled to [-1, 1] by the quantiles of the training rows and cut there: RT-1's way (Brohan et al. 2022, arXiv
2212.06817, section 5.2) with the range of OpenVLA (Kim et al. 2024, arXiv 2406.09246, section 3.2). An answer is the
middle of the likeliest bin. Needs: sequence logits (K, N · B). Targets: scaled actions, NaN past an episode's end (m =
0). Relations: `chunk_regression` on the same rows; several ways to go on stay apart here, and are averaged there.

Axes: K rows, N numbers of a chunk, B bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.objectives import chunk_regression
from luthier.options import Options as Section


class Options(Section):
    pass


class Objective(chunk_regression.Objective):
    def errors(self, logits: Tensor, targets_KN: Tensor) -> Tensor:
        """(K, N): the cross-entropy of each number, NaN where it is not known."""
        logits_KNB = logits.unflatten(1, (targets_KN.shape[1], -1))
        bins_KN = bins_of(targets_KN.nan_to_num(), logits_KNB.shape[2])
        found_KN = F.cross_entropy(logits_KNB.flatten(0, 1), bins_KN.flatten(), reduction="none").view_as(targets_KN)
        return torch.where(targets_KN.isnan(), targets_KN, found_KN)


def bins_of(scaled: Tensor, bins: int) -> Tensor:
    """The bin of each number; what is outside [-1, 1] is in the first or last."""
    return ((scaled + 1) / 2 * bins).floor().clamp(0, bins - 1).long()
