"""A whole trajectory on paper: rewards, advantages, returns and losses of three tokens; and a plain numpy reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from luthier.objectives.policy import clipped_surrogate, k3
from luthier.objectives.trajectory import advantages, explained_variance, led, token_rewards, value_losses, whitened

LN2 = math.log(2)


def one(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_trajectory_on_paper() -> None:
    """Three tokens; log π - log π_ref = ln 2, 0, -ln 2; β = 1/ln 2; the answer scores 3. V = 1, 2, 1. γ = 1/2, λ = 1/2.

    rewards   -1, 0, 1 + 3 = 4
    δ_3 = 4 + 0 - 1 = 3                A_3 = 3                     return_3 = 4
    δ_2 = 0 + 1/2 · 1 - 2 = -3/2       A_2 = -3/2 + 1/4 · 3 = -3/4   return_2 = 5/4
    δ_1 = -1 + 1/2 · 2 - 1 = -1        A_1 = -1 + 1/4 · -3/4 = -19/16   return_1 = -3/16
    """
    counts, values = torch.tensor([3]), one(1, 2, 1)
    rewards = token_rewards(one(3), one(LN2, 0, -LN2), counts, 1 / LN2)
    assert rewards.tolist() == pytest.approx([-1, 0, 4])
    found, returns = advantages(rewards, values, one(0), counts, 0.5, 0.5)
    assert found.tolist() == pytest.approx([-19 / 16, -3 / 4, 3])
    assert returns.tolist() == pytest.approx([-3 / 16, 5 / 4, 4])


def test_its_losses_on_paper() -> None:
    """A = -1, 1, 2 with ratios 2, 1, 2 and ε = 1/4: -min(-2, -5/4) = 2; -1; -min(4, 5/2) = -5/2, clipped.

    V = 0 → 1, 0, 3 with returns 2, 0, 1 and a clip of 1/2: max((1-2)², (1/2-2)²)/2 = 9/8; 0; max(4, 1/4)/2 = 2.
    """
    policy, clipped = clipped_surrogate(one(2, 1, 2), one(-1, 1, 2), 0.25, 0.25)
    assert policy.tolist() == pytest.approx([2, -1, -2.5])
    assert clipped.tolist() == [False, False, True]
    losses, held = value_losses(one(1, 0, 3), one(0, 0, 0), one(2, 0, 1), 0.5)
    assert losses.tolist() == pytest.approx([9 / 8, 0, 2])
    assert held.tolist() == [True, False, False]
    plain, none = value_losses(one(1, 0, 3), one(0, 0, 0), one(2, 0, 1), None)
    assert plain.tolist() == pytest.approx([1 / 2, 0, 2])
    assert not none.any()


def test_where_a_clip_holds_no_gradient_flows() -> None:
    """Up to the clip a value moves towards its return; past it, and nearer to the return, it is left."""
    values = one(0.4, 0.6).requires_grad_()
    value_losses(values, one(0, 0), one(2, 2), 0.5)[0].sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([-1.6, 0])


def test_an_answer_that_was_cut_off_has_what_comes_after_it() -> None:
    """One token, no reward of its own, V = 1, and 4 expected after it: δ = γ 4 - 1."""
    found, returns = advantages(one(0), one(1), one(4), torch.tensor([1]), 0.5, 0.9)
    assert (found.tolist(), returns.tolist()) == ([1.0], [2.0])


def test_whitened_and_explained() -> None:
    """1, 2, 3: mean 2, deviation of a sample 1. Returns 0, 2 with values 1, 1: variance 2 stays 2, nothing explained;
    with 0, 1: what is left has variance 1/2, three quarters are."""
    assert whitened(one(1, 2, 3)).tolist() == pytest.approx([-1, 0, 1], abs=1e-7)
    assert whitened(one(5)).tolist() == [0]
    assert explained_variance(one(1, 1), one(0, 2)) == pytest.approx(0)
    assert explained_variance(one(0, 1), one(0, 2)) == pytest.approx(0.75)
    assert explained_variance(one(0, 1), one(2, 2)) == 0


@pytest.mark.parametrize(("over", "expected"), [(1.0, 1.0), (1.1, 1.05), (5.0, 1.1), (0.0, 0.9)])
def test_beta_is_led(over: float, expected: float) -> None:
    """50 answers of a horizon of 100: half of KL/target - 1, at most half of a fifth."""
    assert led(1.0, over, 50, 100) == pytest.approx(expected)


def numpy_ppo(answers: list[dict[str, Any]], **o: float) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """Advantages (whitened), returns and the mean loss a token, written down from the papers with loops."""
    raw, returns = [], []
    for one in answers:
        n = len(one["old"])
        r = np.array([-o["beta"] * (one["old"][t] - one["reference"][t]) for t in range(n)])
        r[n - 1] += one["score"]
        v = np.append(one["values"], one["beyond"])
        delta = [r[t] + o["gamma"] * v[t + 1] - v[t] for t in range(n)]
        a = np.array([
            sum((o["gamma"] * o["lam"]) ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)
        ])  # fmt: skip
        raw.append(a)
        returns.append(a + one["values"])
    every = np.concatenate(raw)
    white = [(a - every.mean()) / np.sqrt(every.var(ddof=1) + 1e-8) for a in raw]
    total = 0.0
    for one, a, ret in zip(answers, white, returns, strict=True):
        for t in range(len(a)):
            s = math.exp(one["new"][t] - one["old"][t])
            total += max(-s * a[t], -min(max(s, 1 - o["eps"]), 1 + o["eps"]) * a[t])
            near = min(max(one["now"][t], one["values"][t] - o["clip"]), one["values"][t] + o["clip"])
            total += o["c"] * 0.5 * max((one["now"][t] - ret[t]) ** 2, (near - ret[t]) ** 2)
    return white, returns, total / len(every)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_rollout_is_that_of_a_plain_reference(dtype: torch.dtype) -> None:
    """Five ragged answers, the last one cut off: every number, and the loss some steps from the model that wrote."""
    draw = np.random.default_rng(3)
    lengths, options = [3, 1, 7, 4, 2], {"beta": 0.3, "gamma": 0.97, "lam": 0.9, "eps": 0.1, "clip": 0.15, "c": 0.5}
    names = ("old", "reference", "new", "values", "now")
    answers: list[dict[str, Any]] = [
        {name: draw.normal(size=n) * (0.3 if name == "now" else 1) - 1 for name in names}
        | {"score": float(draw.normal()), "beyond": 0.7 * (at == 4)}
        for at, n in enumerate(lengths)
    ]
    for answer in answers:
        answer["now"] += answer["values"]
    white, returns, expected = numpy_ppo(answers, **options)
    flat = {name: torch.tensor(np.concatenate([one[name] for one in answers]), dtype=dtype) for name in names}
    counts = torch.tensor(lengths)
    scores, beyond = (torch.tensor([one[name] for one in answers], dtype=dtype) for name in ("score", "beyond"))
    rewards = token_rewards(scores, flat["old"] - flat["reference"], counts, options["beta"])
    raw, found = advantages(rewards, flat["values"], beyond, counts, options["gamma"], options["lam"])
    told = whitened(raw)
    np.testing.assert_allclose(told.numpy(), np.concatenate(white), atol=1e-5)
    np.testing.assert_allclose(found.numpy(), np.concatenate(returns), atol=1e-5)
    policy, _ = clipped_surrogate((flat["new"] - flat["old"]).exp(), told, options["eps"], options["eps"])
    value, _ = value_losses(flat["now"], flat["values"], found, options["clip"])
    assert float((policy + options["c"] * value).mean()) == pytest.approx(expected, abs=1e-5)


def test_kl_of_a_step_is_never_below_nothing() -> None:
    assert k3(one(-1, -2, -0.5), one(-1, -1, -3)).tolist() == pytest.approx([0, math.e - 2, math.exp(-2.5) + 1.5])
