"""Proximal policy optimization: a value model foretells the reward, and what turns out better is made likelier.

    L = Σ_o w Σ_t [-min(ρ_t A_t, clip(ρ_t, 1 - ε, 1 + ε_high) A_t) + c L_V,t (+ β KL_t)],   count = Σ_o w · tokens

with ρ = π/π_old, A the generalized advantage estimate and L_V the value model's clipped loss: see
``objectives/trajectory.py``. References: Schulman et al. 2017 (arXiv 1707.06347), equation 7; for language models
Ziegler et al. 2019 (arXiv 1909.08593), Ouyang et al. 2022 (arXiv 2203.02155). KL to the reference is taken from each
token's reward (`kl: reward`), or is a term of the loss by the estimator that is never below 0 (`kl: loss`; k3, as for
`grpo`).

Needs: token logits, a value model, and a reference where β > 0. A rollout is learned for `epochs` passes, in
`minibatches` parts each. Relations: `grpo` needs no value model: a group's other answers stand in for it.

| features beside those of ``objectives/online.py`` | |
|---|---|
| score, finished | what the whole answer got, and whether it came to an end |
| placed | tokens of the answer at which a step ends, and what the step got beside it |
| old, reference, advantages, returns, values | one number for each token of the answer |

Axes: N tokens of all answers, S answers, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from luthier.models.backbone import Backbone
from luthier.models.scored import Scored
from luthier.objectives.likelihood import per_sequence, token_log_probabilities
from luthier.objectives.online import GAP, OLD, OnlineObjective, Reads, SamplingOptions
from luthier.objectives.policy import clipped_surrogate, k3
from luthier.objectives.preference import REFERENCE, Report
from luthier.objectives.trajectory import (
    advantages,
    explained_variance,
    led,
    token_rewards,
    value_losses,
    whitened,
    with_steps,
)
from luthier.types import Batch, Example, Features, LossTerms

SCORE, FINISHED, PLACED = "score", "finished", "placed"
ADVANTAGES, RETURNS, VALUES = "advantages_n", "returns_n", "values_n"
BETA = "beta"


class Options(SamplingOptions):
    group_size: int = Field(1, ge=1, description="answers to each prompt")
    truncated: Literal["keep", "drop", "bootstrap", "penalise"] = Field(
        "keep", description="answers that never ended: keep their reward; are left out; have in its place what the "
        "value model expects after them (Pardo et al. 2018, arXiv 1712.00378); or lose `penalty`. All are counted",
    )  # fmt: skip
    penalty: float = Field(1.0, gt=0, description="taken from the reward of an answer that never ended")
    epochs: int = Field(2, ge=1, description="passes over the same answers")
    minibatches: int = Field(1, ge=1, description="parts of a pass, one optimizer step each")
    gamma: float = Field(1.0, gt=0, le=1, description="γ, what a reward one token later is worth")
    lam: float = Field(0.95, ge=0, le=1, description="λ of the generalized advantage estimate")
    epsilon: float = Field(0.2, gt=0, lt=1, description="how far below 1 the ratio of probabilities counts")
    epsilon_high: float | None = Field(None, gt=0, description="how far above 1; default: as epsilon")
    whiten: bool = Field(True, description="advantages are brought to mean 0 and deviation 1 over a rollout's tokens")
    beta: float = Field(0.05, ge=0, description="weight of KL to the reference; 0: no reference is held")
    kl: Literal["reward", "loss"] = Field("reward", description="taken from each token's reward, or a term of the loss")
    kl_target: float | None = Field(None, gt=0, description="nats a token that `beta` is led to; default: it is fixed")
    kl_horizon: int = Field(1000, gt=0, description="answers in which `beta` changes by a fifth at most, for a target")
    value: Literal["auto", "adapter", "head", "model"] = Field(
        "auto", description="the value model: an adapter of its own with a head (`lora` alone), a head on the hidden "
        "states of the model that writes, or a whole model beside it; default: an adapter where there can be one",
    )  # fmt: skip
    value_from: str | None = Field(
        None, description="a run of `reward`, or of `reinforce` with PPO: the value model begins as its adapter and "
        "head, or as its whole model, which may be of another base with the same tokens",
    )  # fmt: skip
    value_weight: float = Field(0.1, gt=0, description="c, of the value loss")
    value_clip: float | None = Field(0.2, gt=0, description="how far a value may move from the one before")

    @model_validator(mode="after")
    def _led(self) -> Options:
        if self.kl_target is not None and not self.beta:
            raise ValueError("kl_target: needs a `beta` above 0 to begin with")
        return self


class ValueReader:
    """Reads rows for the value of each state: before every token of the answer, and after the last."""

    def __init__(self, objective: Objective):
        self.objective = objective

    def collate(self, rows: list[Features]) -> Batch:
        return self.objective.beside(self.objective.reader.collate(rows), rows)

    def outputs(self, backbone: Backbone, batch: Batch) -> list[Tensor]:
        """(n + 1,) of each row."""
        value = self.objective.value
        assert value is not None
        hidden_TD = value.hidden(batch)
        last_S = batch["starts"] + batch["lengths"] - 1
        values_N, beyond_S = (value.scores(hidden_TD.index_select(0, at)) for at in (batch["predict_at"], last_S))
        parts = values_N.cpu().split(batch["counts"].tolist())
        return [torch.cat([part, one[None]]) for part, one in zip(parts, beyond_S.cpu(), strict=True)]


class Objective(OnlineObjective):
    per_token = (OLD, REFERENCE, GAP, ADVANTAGES, RETURNS, VALUES)

    def __init__(self, options: Any, backbone: Backbone, encoder: Callable[[Example], list[Features]] | None):
        """``value`` is given afterwards, when the method has changed the model: see ``runs/beside/critic.py``."""
        super().__init__(options, backbone, encoder)
        self.value: Scored | None = None
        self.state[BETA] = options.beta

    @property
    def minibatches(self) -> int:
        return int(self.options.minibatches)

    @property
    def repeats(self) -> int:
        return int(self.options.epochs * self.options.minibatches)

    @property
    def recalls(self) -> bool:
        return True

    def collate(self, rows: list[Features]) -> Batch:
        return self.beside(super().collate(rows), rows)

    def beside(self, batch: Batch, rows: list[Features]) -> Batch:
        """With what the value model needs to read it."""
        if self.value is not None:
            batch.tensors |= self.value.lay_beside(batch.tensors, rows)
        return batch

    def learned(self, prompt: Features, answers: Sequence[dict[str, Any]], rewards: Sequence[float]) -> list[Features]:
        policy, rows = self.options.truncated, []
        for answer, reward in zip(answers, rewards, strict=True):
            placed = answer["rewarded"].placed if "rewarded" in answer else []
            reward -= sum(step for _, step in placed)
            if not answer["finished"]:
                reward = {"penalise": reward - self.options.penalty, "bootstrap": 0.0}.get(policy, reward)
                placed = placed[:-1] if policy == "bootstrap" else placed  # the step that was cut off
            if answer["finished"] or policy != "drop":
                told = {SCORE: float(reward), FINISHED: float(answer["finished"]), PLACED: placed}
                rows.append(self.answered(prompt, answer, **told))
        return rows

    def settled(self, rows: list[Features], reader: Reads) -> tuple[list[Features], Report]:
        """With advantage, return and value of each token; β follows KL where it has a target."""
        if not rows:
            return rows, {}
        options, read = self.options, reader.outputs(ValueReader(self), rows)
        counts_S = torch.tensor([len(one) - 1 for one in read])
        old_N = torch.cat([row[OLD] for row in rows])
        values_N, after_S = torch.cat([one[:-1] for one in read]), torch.stack([one[-1] for one in read])
        cut_S = torch.tensor([options.truncated == "bootstrap" and not row[FINISHED] for row in rows])
        beyond_S = torch.where(cut_S, after_S, torch.zeros_like(after_S))
        tokens, apart_N = float(len(old_N)), None
        told: Report = {"entropy": (-float(old_N.sum()), tokens)}
        if self.compares:
            reference_N = torch.cat([row[REFERENCE] for row in rows])
            apart_N = old_N - reference_N if options.kl == "reward" else None
            if options.kl_target is not None:
                kl = float(k3(old_N, reference_N).sum()) / tokens
                self.state[BETA] = led(self.state[BETA], kl / options.kl_target, len(rows), options.kl_horizon)
                told["beta"] = (self.state[BETA], 1.0)
        scores_S = torch.tensor([row[SCORE] for row in rows])
        rewards_N = token_rewards(scores_S, apart_N, counts_S, self.state[BETA])
        rewards_N = with_steps(rewards_N, [row[PLACED] for row in rows], counts_S)
        found_N, returns_N = advantages(rewards_N, values_N, beyond_S, counts_S, options.gamma, options.lam)
        told["explained_variance"] = (explained_variance(values_N, returns_N), 1.0)
        told["value"] = (float(values_N.sum()), tokens)
        found_N = whitened(found_N) if options.whiten else found_N
        parts = [part.split(counts_S.tolist()) for part in (found_N, returns_N, values_N)]
        named = zip(rows, *parts, strict=True)
        return [row | {ADVANTAGES: a, RETURNS: r, VALUES: v} for row, a, r, v in named], told

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        """Rows that no answer was written to yet, as a check has them, are learned with advantage and return 1."""
        options, counts_S, weights_S = self.options, batch["counts"], batch["weights"]
        assert self.value is not None
        hidden_TD = backbone.hidden(batch)
        logs_N = token_log_probabilities(backbone, batch.tensors, hidden_TD, options.temperature)
        read_TD = hidden_TD if self.value.reads_policy else self.value.hidden(batch)
        values_N = self.value.scores(read_TD.index_select(0, batch["predict_at"]))
        given, one_N = batch.tensors, torch.ones_like(values_N)
        old_N, before_N = given.get(OLD, logs_N.detach()), given.get(VALUES, values_N.detach())
        advantages_N, returns_N = given.get(ADVANTAGES, one_N), given.get(RETURNS, one_N)
        ratios_N = (logs_N - old_N).exp()
        high = options.epsilon if options.epsilon_high is None else options.epsilon_high
        policy_N, clipped_N = clipped_surrogate(ratios_N, advantages_N, options.epsilon, high)
        value_N, held_N = value_losses(values_N, before_N, returns_N, options.value_clip)
        if GAP in given:
            policy_N = policy_N * self.weights(given[GAP])
        losses_N = policy_N + options.value_weight * value_N
        watched = {
            "ratio": ratios_N, "clip_fraction": clipped_N, "policy_loss": policy_N, "value_loss": value_N,
            "value_clip_fraction": held_N,
        }  # fmt: skip
        if REFERENCE in given:
            watched["kl"] = k3(logs_N, given[REFERENCE])
            if options.kl == "loss":
                losses_N = losses_N + self.state[BETA] * watched["kl"]
        tokens_S = counts_S.float()
        tokens = float(tokens_S.sum())
        report = {name: (float(some.detach().float().sum()), tokens) for name, some in watched.items()}
        total = (per_sequence(losses_N, counts_S) * weights_S).sum()
        return LossTerms(total, float((tokens_S * weights_S).sum()), report)
