"""Simple preference optimization: mean log-probabilities as rewards, a margin between them, and no reference.

    L = Σ_k w_k · -log σ(β (m(chosen) - m(rejected)) - γ),   m the mean of log π over the answer's tokens

count = Σ_k w_k. References: Meng et al. 2024 (arXiv 2405.14734), equation 6. Needs: token logits. Relations: `dpo`
holds the model to a reference; `cpo` has sums in the place of means, and learns the chosen answer itself beside them.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.objectives.preference import Answers, PreferenceObjective
from luthier.options import Options as Section


class Options(Section):
    beta: float = Field(2.0, gt=0, description="scale of the reward, β times the mean log-probability of a token")
    gamma: float = Field(1.0, ge=0, description="margin by which the chosen answer's reward is to be the higher one")


class Objective(PreferenceObjective):
    compares = False

    def losses(self, answers: Answers) -> Tensor:
        rewards_K2 = self.rewards(answers)
        return -F.logsigmoid(rewards_K2[:, 0] - rewards_K2[:, 1] - self.options.gamma)

    def rewards(self, answers: Answers) -> Tensor:
        return self.options.beta * answers.means_K2
