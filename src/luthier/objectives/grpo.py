"""Group relative policy optimization and its kin: of several answers to a prompt the better ones become likelier.

    L = Σ_o w · [-min(ρ A, clip(ρ, 1 - ε, 1 + ε_high) A) + β KL(π ‖ π_ref)],   count = Σ_o w   (DAPO: Σ_o w · tokens)

with A an answer's advantage among those of its group and ρ = π/π_old. `loss` chooses among GRPO, Dr. GRPO, DAPO's
token-level loss, GSPO and RLOO; ``objectives/policy.py`` has the formula, the source and the departures of each. With
`epsilon_high` the clip is asymmetric (DAPO, arXiv 2503.14476, section 3.1). `redraws` is its dynamic sampling (section
3.2), within a bound: the paper draws until the batch is full.

Needs: token logits; a reference where β > 0. See ``objectives/online.py`` for features. At the first step on fresh
answers ρ is 1, the surrogate -A and, before the first step of all, KL 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from luthier.models.backbone import Backbone
from luthier.objectives.likelihood import token_log_probabilities
from luthier.objectives.online import ADVANTAGE, GAP, OLD, OnlineObjective, SamplingOptions
from luthier.objectives.policy import VARIANTS, advantages, clip_of, policy_terms
from luthier.objectives.preference import REFERENCE
from luthier.types import Batch, Features, LossTerms


class Options(SamplingOptions):
    loss: Literal["grpo", "dr_grpo", "dapo", "gspo", "rloo"] = Field("grpo", description="the variant")
    group_size: int = Field(8, ge=2, description="answers to each prompt, compared with each other")
    truncated: Literal["keep", "drop"] = Field(
        "keep", description="answers that never ended: learned by their reward, or left out of the loss; both counted"
    )
    redraws: int = Field(
        0, ge=0, le=20, description="tries to draw other prompts in the place of groups whose answers are all worth "
        "the same (DAPO's dynamic sampling)",
    )  # fmt: skip
    iterations: int = Field(1, ge=1, description="optimizer steps on the same answers")
    beta: float = Field(0.04, ge=0, description="weight of KL to the reference; 0: no reference is held")
    epsilon: float | None = Field(
        None, gt=0, lt=1, description="how far below 1 the ratio of probabilities counts; default 0.2, for gspo 3e-4"
    )
    epsilon_high: float | None = Field(None, gt=0, description="how far above 1; default: as epsilon (gspo: 4e-4)")


class Objective(OnlineObjective):
    shares = True

    @property
    def repeats(self) -> int:
        return int(self.options.iterations)

    @property
    def redraws(self) -> int:
        return int(self.options.redraws)

    def learned(self, prompt: Features, answers: Sequence[dict[str, Any]], rewards: Sequence[float]) -> list[Features]:
        found = advantages(rewards, VARIANTS[self.options.loss])
        return [
            self.answered(prompt, answer, **{ADVANTAGE: advantage})
            for answer, advantage in zip(answers, found, strict=True)
            if answer["finished"] or self.options.truncated == "keep"
        ]

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        options, counts_S, weights_S = self.options, batch["counts"], batch["weights"]
        logs_N = token_log_probabilities(backbone, batch.tensors, backbone.hidden(batch), options.temperature)
        given = batch.tensors
        low, high = clip_of(options.loss, options.epsilon, options.epsilon_high)
        terms = policy_terms(
            VARIANTS[options.loss], logs_N, given.get(OLD, logs_N.detach()), given.get(REFERENCE),
            counts_S, batch["advantages"], low=low, high=high, beta=options.beta, longest=options.max_new_tokens,
            gaps_N=given.get(GAP), weights=self.weights,
        )  # fmt: skip
        tokens = float(counts_S.sum())
        report = {"ratio": (terms.ratio, tokens), "clip_fraction": (terms.clipped, tokens)}
        if terms.kl is not None:
            report["kl"] = (terms.kl, tokens)
        return LossTerms((terms.losses_S * weights_S).sum(), float((terms.counts_S * weights_S).sum()), report)
