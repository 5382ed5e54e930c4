"""Odds ratio preference optimization: the chosen answer is learned, and its odds raised over the other's; no reference.

    L = Σ_k w_k · [-m(chosen) - β log σ(log odds(chosen) - log odds(rejected))],   log odds = m - log(1 - exp m)

with m the mean of log π over the answer's tokens; count = Σ_k w_k. References: Hong et al. 2024 (arXiv 2403.07691),
equations 1, 6 and 7, with β for its λ. Departure from TRL: -m is of the answer alone; there the prompt is learned too.

Needs: token logits. Relations: it is `next_token` on the chosen answers with a preference beside it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.objectives.preference import Answers, PreferenceObjective
from luthier.options import Options as Section

CLOSEST = -1e-6  # to certainty, where the odds would be infinite


class Options(Section):
    beta: float = Field(0.1, gt=0, description="weight of the odds ratio beside the chosen answer's likelihood")


class Objective(PreferenceObjective):
    compares = False

    def losses(self, answers: Answers) -> Tensor:
        odds_K2 = log_odds(answers.means_K2)
        return -answers.means_K2[:, 0] - self.options.beta * F.logsigmoid(odds_K2[:, 0] - odds_K2[:, 1])

    def rewards(self, answers: Answers) -> Tensor:
        return self.options.beta * answers.means_K2


def log_odds(log_p: Tensor) -> Tensor:
    """log(p / (1 - p))."""
    log_p = log_p.clamp(max=CLOSEST)
    return log_p - torch.log(-torch.expm1(log_p))
