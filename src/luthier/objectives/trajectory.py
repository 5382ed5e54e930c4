"""An answer as a trajectory: each token an action, its reward, the advantage, the return, and the value model's loss.

For an answer of n tokens with log-probabilities log π (of its writer) and log π_ref, score R, and values V(s_1) to
V(s_n) of the states before its tokens:

    r_t = -β (log π(o_t) - log π_ref(o_t)) + [t = n] R             (Ouyang et al. 2022, arXiv 2203.02155, equation 2)
          + Σ_i [t = t_i] R_i, where a step i of the answer that ends at token t_i has a reward of its own
    δ_t = r_t + γ V(s_{t+1}) - V(s_t),   A_t = δ_t + γ λ A_{t+1}    (Schulman et al. 2016, arXiv 1506.02438, eq. 16)
    return_t = A_t + V(s_t),   V(s_{n+1}) = 0, or the value model's own where the answer was cut off

    L_V = ½ max((V - return)², (clip(V, V_old ± ε) - return)²)      (Baselines' PPO; Huang et al. 2022, detail 9)

The reward is at the last real token, the terminator where there is one. TRL 1.12 puts it one place further where an
answer is shorter than the longest, at a state after the terminator whose value it learns too.

Axes: N tokens of all answers end to end, S answers. No answer sees another, and there is no padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from luthier.data.lengths import split

STEADY = 1e-8


def token_rewards(scores_S: Tensor, log_ratios_N: Tensor | None, counts_S: Tensor, beta: float) -> Tensor:
    """(N,): what KL takes from each token (log π - log π_ref; None: nothing), and each answer's score at its last."""
    rewards_N = torch.zeros(int(counts_S.sum())) if log_ratios_N is None else -beta * log_ratios_N
    return rewards_N.index_add(0, counts_S.cumsum(0) - 1, scores_S.to(rewards_N.dtype))


def with_steps(rewards_N: Tensor, placed: Sequence[Sequence[tuple[int, float]]], counts_S: Tensor) -> Tensor:
    """(N,): with the rewards of steps where they end; of each answer these are ``(token of the answer, reward)``."""
    starts = (counts_S.cumsum(0) - counts_S).tolist()
    told = [(start + at, reward) for start, some in zip(starts, placed, strict=True) for at, reward in some]
    if not told:
        return rewards_N
    at, rewards = zip(*told, strict=True)
    return rewards_N.index_add(0, torch.tensor(at), torch.tensor(rewards, dtype=rewards_N.dtype))


def advantages(
    rewards_N: Tensor, values_N: Tensor, beyond_S: Tensor, counts_S: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """(N,) advantages and (N,) returns; ``beyond_S`` is the value of the state after the last token, 0 at an end."""
    counts = counts_S.tolist()
    rewards, values = (split(some_N.tolist(), counts) for some_N in (rewards_N, values_N))
    found: list[float] = []
    for rewards_n, values_n, beyond in zip(rewards, values, beyond_S.tolist(), strict=True):
        later, ahead, backwards = 0.0, beyond, []
        for reward, value in zip(reversed(rewards_n), reversed(values_n), strict=True):
            later = reward + gamma * ahead - value + gamma * lam * later
            ahead = value
            backwards.append(later)
        found += reversed(backwards)
    found_N = torch.tensor(found, dtype=rewards_N.dtype)
    return found_N, found_N + values_N


def whitened(values_N: Tensor) -> Tensor:
    """(v - mean) / std over all real tokens; std is that of a sample (n - 1), as in TRL. One value becomes 0."""
    if len(values_N) < 2:
        return torch.zeros_like(values_N)
    return (values_N - values_N.mean()) * torch.rsqrt(values_N.var() + STEADY)


def explained_variance(values_N: Tensor, returns_N: Tensor) -> float:
    """1 - Var(return - V) / Var(return): 1 where values foretell returns, 0 where they say no more than a constant."""
    if len(returns_N) < 2 or float(returns_N.var()) == 0:
        return 0.0
    return 1 - float((returns_N - values_N).var() / returns_N.var())


def value_losses(values_N: Tensor, old_N: Tensor, returns_N: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """(N,) losses with the gradient, and (N,) whether the clip held."""
    plain_N = (values_N - returns_N).square()
    if clip is None:
        return plain_N / 2, torch.zeros_like(plain_N, dtype=torch.bool)
    near_N = torch.clamp(values_N, old_N - clip, old_N + clip)
    held_N = (near_N - returns_N).square()
    return torch.maximum(plain_N, held_N) / 2, held_N > plain_N


def led(beta: float, over: float, answers: int, horizon: int) -> float:
    """β of KL, led to a target: ``over`` is KL / target.

    β (1 + clip(KL/target - 1, ±0.2) · answers / horizon)   (Ziegler et al. 2019, arXiv 1909.08593, section 2.2; its KL
    is one of whole answers, ours one a token)
    """
    return beta * (1 + min(max(over - 1, -0.2), 0.2) * answers / horizon)
