"""Identity preference optimization: the difference of two log-ratios is drawn to a fixed distance, and not beyond it.

    L = Σ_k w_k · (r(chosen) - r(rejected) - 1 / (2 β))²;   count = Σ_k w_k

with r an answer's log-ratio to the reference per token. References: Azar et al. 2023 (arXiv 2310.12036), equation 17,
with β for its τ. Departure: r is the mean over the answer's tokens and not their sum, as in TRL, whose authors
confirmed it with those of the paper; a sum would make the distance depend on how long answers are.

Needs: token logits and a reference. Relations: `dpo` has log σ in the place of the square, and can go on for ever.
"""

from __future__ import annotations

from torch import Tensor

from luthier.objectives.preference import Answers, PreferenceObjective, WithReference


class Options(WithReference):
    pass


class Objective(PreferenceObjective):
    def losses(self, answers: Answers) -> Tensor:
        assert answers.ratios_K2 is not None
        ratios_K2 = answers.ratios_K2 / answers.tokens_K2
        return (ratios_K2[:, 0] - ratios_K2[:, 1] - 1 / (2 * self.options.beta)).square()

    def rewards(self, answers: Answers) -> Tensor:
        assert answers.ratios_K2 is not None
        return self.options.beta * answers.ratios_K2
