"""Absolute or squared error of a chunk of actions: the next H actions, A numbers each, at once.

    L = Σ_k w_k Σ_h Σ_a m_kh |z_kha - y_kha|;  count = Σ_k w_k · A Σ_h m_kh

Behaviour cloning with action chunks as ACT has it (Zhao et al. 2023, arXiv 2304.13705, section IV), without its
variational part: the mean over what is known of a chunk. Needs: sequence logits (K, H · A). Targets: scaled actions,
NaN past an episode's end (m = 0). Relations: `binned_actions` predicts a class for each number, `flow_matching` draws
whole chunks; `regression` is one number a row.

Axes: K rows, N = H · A numbers of a chunk.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from luthier.models.backbone import Backbone
from luthier.objectives.sequence import SequenceObjective
from luthier.options import Options as Section
from luthier.types import Batch, Features, LossTerms


class Options(Section):
    loss: Literal["absolute", "squared"] = Field("absolute", description="error of each number")


class Objective(SequenceObjective):
    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        logits = backbone.sequence_logits(backbone.hidden(batch), batch).float()
        return known_terms(self.errors(logits, batch["targets"]), batch)

    def errors(self, logits: Tensor, targets_KN: Tensor) -> Tensor:
        """(K, N): the loss of each number, NaN where it is not known."""
        difference_KN = logits - targets_KN.nan_to_num()  # a NaN here would be one in every gradient
        errors_KN = difference_KN.abs() if self.options.loss == "absolute" else difference_KN.square()
        return torch.where(targets_KN.isnan(), targets_KN, errors_KN)

    def mean_loss(self, outputs: list[list[float]], rows: list[Features]) -> float:
        targets_KN = torch.tensor([row["target"] for row in rows], dtype=self.target_type)
        return float(self.errors(torch.tensor(outputs), targets_KN).nanmean())


def known_terms(errors_KN: Tensor, batch: Batch) -> LossTerms:
    """The sum of known errors by the rows' weights, and how many they are. A NaN of the model's own stays one."""
    known_KN = ~batch["targets"].isnan()
    errors_KN = torch.where(known_KN, errors_KN, torch.zeros_like(errors_KN))
    weights_K = batch["weights"]
    return LossTerms((errors_KN.sum(1) * weights_K).sum(), float((known_KN.sum(1) * weights_K).sum()))
