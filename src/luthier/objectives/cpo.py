"""Contrastive preference optimization: as `dpo` with a uniform reference, and the chosen answer is learned beside it.

    L = Σ_k w_k · [-(1 - ε) log σ(z_k) - ε log σ(-z_k) - λ m(chosen)],   z_k = β (log π(chosen) - log π(rejected))

with m the mean of log π over the answer's tokens; count = Σ_k w_k. References: Xu et al. 2024 (arXiv 2401.08417),
equations 3 to 5; there the likelihood is summed over tokens, here (as in TRL) it is a mean, so that λ means the same
for answers of any length.

Needs: token logits. Relations: `simpo` has means in z, and no likelihood beside it.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from luthier.objectives.preference import Answers, PreferenceObjective, preferred
from luthier.options import Options as Section


class Options(Section):
    beta: float = Field(0.1, gt=0, description="scale of the reward, β times the answer's log-probability")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="ε, the share of pairs that are taken to be wrong")
    likelihood: float = Field(1.0, ge=0, description="λ, weight of the chosen answer's own likelihood")


class Objective(PreferenceObjective):
    compares = False

    def losses(self, answers: Answers) -> Tensor:
        rewards_K2 = self.rewards(answers)
        preferred_K = preferred(rewards_K2[:, 0] - rewards_K2[:, 1], self.options.label_smoothing)
        return preferred_K - self.options.likelihood * answers.means_K2[:, 0]

    def rewards(self, answers: Answers) -> Tensor:
        return self.options.beta * answers.logs_K2
