"""Direct preference optimization: a preferred answer is made more likely than the other, held to a reference.

    L = Σ_k w_k · [-(1 - ε) log σ(z_k) - ε log σ(-z_k)],   z_k = β (r(chosen) - r(rejected));   count = Σ_k w_k

with r an answer's log-ratio to the reference. References: Rafailov et al. 2023 (arXiv 2305.18290), equation 7; ε, the
share of labels that are wrong, as in Mitchell 2023 ("cDPO"). `robust` is unbiased under that noise: [-(1 - ε) log σ(z)
+ ε log σ(-z)] / (1 - 2ε) (Chowdhury et al. 2024, arXiv 2403.00409). `length_normalized` divides each r by its answer's
tokens (Lambert et al. 2024, Tülu 3, arXiv 2411.15124).

Needs: token logits and a reference. See ``objectives/preference.py`` for features. Relations: `ipo` has a square in the
place of the logarithm; `simpo`, `orpo` and `cpo` need no reference; `kto` no pairs. Before the first step L is ln 2.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from luthier.objectives.preference import Answers, PreferenceObjective, WithReference, preferred


class Options(WithReference):
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="ε, the share of pairs that are taken to be wrong")
    robust: bool = Field(False, description="unbiased where that share of labels is flipped; needs `label_smoothing`")
    length_normalized: bool = Field(False, description="log-ratios per token of the answer")

    @model_validator(mode="after")
    def _noise(self) -> Options:
        if self.robust and not self.label_smoothing:
            raise ValueError("robust: needs label_smoothing, the share of labels that are flipped")
        return self


class Objective(PreferenceObjective):
    def losses(self, answers: Answers) -> Tensor:
        rewards_K2, noise = self.rewards(answers), self.options.label_smoothing
        z_K = rewards_K2[:, 0] - rewards_K2[:, 1]
        if self.options.robust:
            return (-(1 - noise) * F.logsigmoid(z_K) + noise * F.logsigmoid(-z_K)) / (1 - 2 * noise)
        return preferred(z_K, noise)

    def rewards(self, answers: Answers) -> Tensor:
        assert answers.ratios_K2 is not None
        ratios_K2 = answers.ratios_K2 / answers.tokens_K2 if self.options.length_normalized else answers.ratios_K2
        return self.options.beta * ratios_K2
