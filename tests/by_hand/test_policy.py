"""Group advantages, the clipped ratio and KL on numbers whose logarithms are known, and a plain numpy reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from luthier.objectives.policy import STEADY, VARIANTS, Terms, advantages, clip_of, is_equal, policy_terms

LN2 = math.log(2)


def terms(
    variant: str, logs: list[float], old: list[float], counts: list[int], advantage: list[float],
    reference: list[float] | None = None, **options: Any,
) -> Terms:  # fmt: skip
    given = {"low": 0.2, "high": 0.2, "beta": 0.0, "longest": 8, **options}
    named = [None if one is None else torch.tensor(one) for one in (logs, old, reference)]
    return policy_terms(VARIANTS[variant], *named, torch.tensor(counts), torch.tensor(advantage), **given)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        # Rewards 1 0 0 1: mean 1/2, std of a sample √(4 · 1/4 / 3) = 1/√3.
        ("grpo", [0.5 / (3**-0.5 + STEADY), -0.5 / (3**-0.5 + STEADY)]),
        ("dr_grpo", [0.5, -0.5]),
        # The others' mean is 1/3 where this one is 1, 2/3 where it is 0.
        ("rloo", [2 / 3, -2 / 3]),
    ],
)
def test_advantages(variant: str, expected: list[float]) -> None:
    found = advantages([1.0, 0.0, 0.0, 1.0], VARIANTS[variant])
    assert found == pytest.approx([expected[0], expected[1], expected[1], expected[0]], abs=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rewards", [[0.0, 0.0], [1.0, 1.0, 1.0], [0.1 + 0.2, 0.3], [1e9, 1e9]])
def test_equal_rewards_teach_nothing(variant: str, rewards: list[float]) -> None:
    """Sums of floats that differ in their last bit count as equal."""
    assert is_equal(rewards)
    assert advantages(rewards, VARIANTS[variant]) == [0.0] * len(rewards)


def test_small_differences_count() -> None:
    assert not is_equal([0.0, 1e-3])
    assert advantages([0.0, 1e-3], VARIANTS["dr_grpo"]) == pytest.approx([-5e-4, 5e-4])


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "clipped"),
    [
        (1.0, 1.0, -1.0, 0.0),
        (2.0, 1.0, -1.3, 1.0),  # above 1 + ε_high: no more is gained, -1.3 · 1
        (2.0, -1.0, 2.0, 0.0),  # worse and likelier: the whole of it counts
        (0.5, 1.0, -0.5, 0.0),  # better and less likely: the whole of it counts
        (0.5, -1.0, 0.8, 1.0),  # below 1 - ε: no more is gained
    ],
)
@pytest.mark.parametrize("variant", ["grpo", "gspo", "rloo"])
def test_the_clip(variant: str, ratio: float, advantage: float, expected: float, clipped: float) -> None:
    """An answer of one token: all ratios are the same. ε = 0.2, ε_high = 0.3. Where it is clipped no gradient flows."""
    logs = torch.tensor([math.log(ratio)], requires_grad=True)
    found = policy_terms(
        VARIANTS[variant], logs, torch.zeros(1), None, torch.tensor([1]), torch.tensor([advantage]),
        low=0.2, high=0.3, beta=0.0, longest=1,
    )  # fmt: skip
    assert found.losses_S.tolist() == pytest.approx([expected], abs=1e-6)
    assert (found.clipped, found.kl) == (clipped, None)
    assert found.ratio == pytest.approx(ratio)
    found.losses_S.sum().backward()
    assert logs.grad is not None
    assert logs.grad.tolist() == pytest.approx([0.0 if clipped else -ratio * advantage], abs=1e-6)


@pytest.mark.parametrize(
    ("variant", "expected", "counts"),
    [
        # Answers of 1 and 3 tokens, A = 1 and -1, token ratios 1 | 1.1 1 0.9 (none clipped).
        ("grpo", [-1.0, (1.1 + 1 + 0.9) / 3], [1, 1]),
        ("dr_grpo", [-1 / 8, 3.0 / 8], [1, 1]),
        ("dapo", [-1.0, 3.0], [1, 3]),
        ("gspo", [-1.0, (1.1 * 0.9) ** (1 / 3)], [1, 1]),
        ("rloo", [-1.0, 1.1 * 0.9], [1, 1]),
    ],
)
def test_what_an_answer_is_divided_by(variant: str, expected: list[float], counts: list[float]) -> None:
    logs = [-0.5, -1.0 + math.log(1.1), -2.0, -0.1 + math.log(0.9)]
    found = terms(variant, logs, [-0.5, -1.0, -2.0, -0.1], [1, 3], [1.0, -1.0])
    assert found.losses_S.tolist() == pytest.approx(expected, abs=1e-6)
    assert found.counts_S.tolist() == counts


def test_kl_is_the_k3_estimate() -> None:
    """π_ref/π = 2 and 1/2: 2 - 1 - ln 2 and 1/2 - 1 + ln 2; β times their mean over the answer's tokens, A = 0."""
    found = terms("grpo", [-LN2, -LN2], [-LN2, -LN2], [2], [0.0], [0.0, -2 * LN2], beta=0.5)
    each = [1 - LN2, LN2 - 0.5]
    assert found.kl == pytest.approx(sum(each), abs=1e-6)
    assert found.losses_S.tolist() == pytest.approx([0.5 * sum(each) / 2], abs=1e-6)


def test_kl_estimate_is_unbiased_over_five_tokens() -> None:
    """Σ_v π(v) k3(v) = Σ_v π(v) log(π(v)/π_ref(v)), on a vocabulary of five; no k3 is below 0."""
    policy = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)
    reference = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15], dtype=torch.float64)
    found = [
        terms("grpo", [float(p.log())], [float(p.log())], [1], [0.0], [float(r.log())], beta=1.0).kl
        for p, r in zip(policy, reference, strict=True)
    ]
    assert all(one is not None and one >= 0 for one in found)
    exact = float((policy * (policy / reference).log()).sum())
    assert sum(float(p) * float(k or 0) for p, k in zip(policy, found, strict=True)) == pytest.approx(exact, abs=1e-6)


def test_the_clip_that_is_meant() -> None:
    assert clip_of("grpo", None, None) == (0.2, 0.2)
    assert clip_of("grpo", 0.1, None) == (0.1, 0.1)
    assert clip_of("dapo", 0.2, 0.28) == (0.2, 0.28)
    assert clip_of("grpo", None, 0.28) == (0.2, 0.28)
    assert clip_of("gspo", None, None) == (3e-4, 4e-4)


def numpy_loss(
    variant: str, rewards: list[float], logs: list[np.ndarray], old: list[np.ndarray], reference: list[np.ndarray],
    low: float, high: float, beta: float, longest: int,
) -> float:  # fmt: skip
    """The mean loss of one group, written down from the papers with loops, sharing no code with the package."""
    r = np.array(rewards)
    if variant == "rloo":
        a = np.array([r[i] - np.delete(r, i).mean() for i in range(len(r))])
    else:
        a = r - r.mean()
        if variant != "dr_grpo":
            a = a / (r.std(ddof=1) + 1e-4)
    total, tokens = 0.0, 0
    for i in range(len(r)):
        n = len(logs[i])
        tokens += n
        kl = [math.exp(f - p) - (f - p) - 1 for f, p in zip(reference[i], logs[i], strict=True)]
        ratios = [math.exp(p - q) for p, q in zip(logs[i], old[i], strict=True)]
        if variant == "gspo":
            s = math.prod(ratios) ** (1 / n)
            total += -min(s * a[i], min(max(s, 1 - low), 1 + high) * a[i]) + beta * sum(kl) / n
            continue
        if variant == "rloo":
            s = math.prod(ratios)
            total += -min(s * a[i], min(max(s, 1 - low), 1 + high) * a[i]) + beta * sum(kl)
            continue
        each = [
            -min(s * a[i], min(max(s, 1 - low), 1 + high) * a[i]) + beta * k for s, k in zip(ratios, kl, strict=True)
        ]
        total += sum(each) / {"grpo": n, "dr_grpo": longest, "dapo": 1}[variant]
    return total / (tokens if variant == "dapo" else len(r))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_of_a_group_is_that_of_a_plain_reference(variant: str) -> None:
    """Four answers of 1 to 7 tokens, two steps from the model that wrote them, in double precision."""
    draw = np.random.default_rng(0)
    lengths, rewards = [3, 1, 7, 4], [1.0, 0.25, 0.0, 0.5]
    logs, apart, far = ([draw.normal(size=n) for n in lengths] for _ in range(3))
    logs = [-np.abs(one) for one in logs]
    better = [1, -1, -1, 1]  # where an answer is better its tokens became likelier, so that the clip is felt
    old = [one - 0.2 * way * np.abs(other) for one, way, other in zip(logs, better, apart, strict=True)]
    reference = [one - 0.5 * other for one, other in zip(logs, far, strict=True)]
    low, high = 0.1, 0.15
    found = policy_terms(
        VARIANTS[variant], *(torch.tensor(np.concatenate(some)) for some in (logs, old, reference)),
        torch.tensor(lengths), torch.tensor(advantages(rewards, VARIANTS[variant]), dtype=torch.float64),
        low=low, high=high, beta=0.3, longest=9,
    )  # fmt: skip
    expected = numpy_loss(variant, rewards, logs, old, reference, low, high, 0.3, 9)
    assert float(found.losses_S.sum() / found.counts_S.sum()) == pytest.approx(expected, abs=1e-6)
    assert found.clipped > 0


@pytest.mark.parametrize(
    ("variant", "weights"), [("grpo", [2.0, 0.5]), ("gspo", [2**0.5]), ("rloo", [2.0]), ("dapo", [2.0, 0.5])]
)
def test_what_another_model_wrote_is_weighed_by_how_much_likelier_it_is_here(
    variant: str, weights: list[float]
) -> None:
    """One answer of two tokens, four times as likely to the trainer as to the writer and half as likely: weights 4 (at
    most 2 counts) and 1/2; of the sequence √(4 · 1/2), or 4 · 1/2. At ratio 1 and advantage 3 a surrogate is -3."""
    logs, gaps = [-1.0, -2.0], torch.tensor([math.log(4), -LN2])
    told = terms(variant, logs, logs, [2], [3.0], gaps_N=gaps, weights=lambda gaps: gaps.exp().clamp(max=2.0))
    expected = sum(-3 * weight for weight in weights) / (len(weights) if variant == "grpo" else 1)
    assert told.losses_S.tolist() == pytest.approx([expected])
    assert told.ratio == pytest.approx(2.0), "the ratio is that of the trainer's own policies"
