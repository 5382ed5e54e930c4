"""The parts that policy gradients on groups of answers share: advantages, the clipped ratio, KL to a reference.

For an answer o of n tokens with advantage A, token log-probabilities log π (with gradient), log π_old (of its writer)
and log π_ref:

    surrogate  = -min(ρ A, clip(ρ, 1 - ε, 1 + ε_high) A)          (Schulman et al. 2017, arXiv 1707.06347, equation 7)
    KL         = π_ref/π - 1 - log(π_ref/π) per token             (Schulman 2020, k3: never below 0, unbiased)

| variant | advantage | ratio ρ | an answer's loss | source |
|---|---|---|---|---|
| grpo | (r - mean) / (std + 1e-4) | per token | mean over its tokens | Shao et al. 2024, arXiv 2402.03300, equation 3 |
| dr_grpo | r - mean | per token | sum over its tokens / max_new_tokens | Liu et al. 2025, arXiv 2503.20783 |
| dapo | (r - mean) / (std + 1e-4) | per token | sum, counted in tokens | Yu et al. 2025, arXiv 2503.14476 |
| gspo | (r - mean) / (std + 1e-4) | exp(mean log-ratio) | one term | Zheng et al. 2025, arXiv 2507.18071, equation 5 |
| rloo | r - mean of the others | exp(sum of log-ratios) | one term | Ahmadian et al. 2024, arXiv 2402.14740, eq. 7 |

std is that of a sample (n - 1), as in TRL. KL is averaged over an answer's tokens, summed where the variant sums.
RLOO's paper takes KL from the reward; here it is a term of the loss, as for the others.

Axes: N tokens of all answers, S answers, G answers of one group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from torch import Tensor

from luthier.objectives.likelihood import per_sequence

STEADY = 1e-4
EQUAL = 1e-9
"""Rewards of a group that are no further apart count as equal."""


@dataclass(frozen=True)
class Variant:
    """``advantage``: scaled, centred or others; ``ratio``: token, mean or sum; ``over``: what an answer's loss is
    divided by: its own tokens (or nothing, where the ratio is one), the longest answer, or all tokens."""

    advantage: str
    ratio: str
    over: str


VARIANTS = {
    "grpo": Variant("scaled", "token", "own"),
    "dr_grpo": Variant("centred", "token", "longest"),
    "dapo": Variant("scaled", "token", "all"),
    "gspo": Variant("scaled", "mean", "own"),
    "rloo": Variant("others", "sum", "one"),
}


@dataclass
class Terms:
    """Of each answer: its loss (S,) with the gradient, and how much it counts (S,); and what is watched, summed over
    tokens: ``kl``, ``ratio`` and ``clipped``."""

    losses_S: Tensor
    counts_S: Tensor
    kl: float | None
    ratio: float
    clipped: float


def advantages(rewards: Sequence[float], variant: Variant) -> list[float]:
    """Of the answers of one group; all 0 where all rewards are equal."""
    if is_equal(rewards):
        return [0.0] * len(rewards)
    middle = mean(rewards)
    if variant.advantage == "others":  # r - (sum - r) / (G - 1) = (r - mean) G / (G - 1)
        return [(reward - middle) * len(rewards) / (len(rewards) - 1) for reward in rewards]
    scale = 1.0 if variant.advantage == "centred" else stdev(rewards) + STEADY
    return [(reward - middle) / scale for reward in rewards]


def is_equal(rewards: Sequence[float]) -> bool:
    return max(rewards) - min(rewards) <= EQUAL * max(1.0, *map(abs, rewards))


def clipped_surrogate(ratios: Tensor, advantages: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """-min(ρ A, clip(ρ, 1 - ε, 1 + ε_high) A), and where the clip holds: no gradient flows there."""
    kept = ratios.clamp(1 - low, 1 + high)
    clipped = ((ratios > 1 + high) & (advantages > 0)) | ((ratios < 1 - low) & (advantages < 0))
    return -torch.minimum(ratios * advantages, kept * advantages), clipped


def k3(logs_N: Tensor, reference_N: Tensor) -> Tensor:
    """(N,) π_ref/π - 1 - log(π_ref/π)."""
    apart_N = reference_N - logs_N
    return torch.expm1(apart_N) - apart_N


def policy_terms(
    variant: Variant, logs_N: Tensor, old_N: Tensor, reference_N: Tensor | None, counts_S: Tensor,
    advantages_S: Tensor, *, low: float, high: float, beta: float, longest: int, gaps_N: Tensor | None = None,
    weights: Callable[[Tensor], Tensor] = torch.exp,
) -> Terms:  # fmt: skip
    """``low`` and ``high`` are ε and ε_high; ``longest`` is the most tokens that an answer may have. ``gaps_N`` is log
    π_old - log π of whoever wrote, where that was another model: reduced as the ratio is, it gives the surrogates their
    ``weights``."""
    tokens_S = counts_S.float()
    log_ratios = logs_N - old_N
    if variant.ratio == "token":
        advantage = advantages_S.repeat_interleave(counts_S)
    else:
        log_ratios = _reduced(variant, log_ratios, counts_S)
        advantage = advantages_S
    ratios = log_ratios.exp()
    surrogate, clipped = clipped_surrogate(ratios, advantage, low, high)
    if gaps_N is not None:
        surrogate = surrogate * weights(_reduced(variant, gaps_N, counts_S))
    if variant.ratio == "token":
        losses_S = per_sequence(surrogate, counts_S)
        losses_S = losses_S / tokens_S if variant.over == "own" else losses_S
    else:
        losses_S = surrogate
    kl = None
    if reference_N is not None:
        kl_S = per_sequence(k3(logs_N, reference_N), counts_S)
        kl = float(kl_S.detach().sum())
        losses_S = losses_S + beta * (kl_S / tokens_S if variant.over == "own" else kl_S)
    if variant.over == "longest":
        losses_S = losses_S / longest
    weigh = torch.ones_like(ratios) if variant.ratio == "token" else tokens_S  # per token, whatever the ratio's unit
    watched = [float((value.detach() * weigh).sum()) for value in (ratios, clipped.float())]
    counts = tokens_S if variant.over == "all" else torch.ones_like(tokens_S)
    return Terms(losses_S, counts, kl, *watched)


def _reduced(variant: Variant, logs_N: Tensor, counts_S: Tensor) -> Tensor:
    """(N,) or (S,): log-ratios in the unit of the variant's ratio."""
    if variant.ratio == "token":
        return logs_N
    summed_S = per_sequence(logs_N, counts_S)
    return summed_S / counts_S.float() if variant.ratio == "mean" else summed_S


def clip_of(variant: str, low: float | None, high: float | None) -> tuple[float, float]:
    """ε and ε_high where they are given; else 0.2, and for GSPO, whose ratio is a mean, the paper's 3e-4 and 4e-4."""
    usual = (3e-4, 4e-4) if variant == "gspo" else (0.2, 0.2)
    if low is None:
        return usual[0], usual[1] if high is None else high
    return low, low if high is None else high
