"""Divergences and the loss of a student, by hand.

P = (1/2, 3/8, 1/8) is the teacher's distribution and Q = (1/4, 3/8, 3/8) the student's.

    forward   KL(P‖Q) = 1/2 ln 2 + 3/8 ln 1 + 1/8 ln 1/3 = 1/2 ln 2 - 1/8 ln 3
    reverse   KL(Q‖P) = 1/4 ln 1/2 + 3/8 ln 1 + 3/8 ln 3 = 3/8 ln 3 - 1/4 ln 2
    jsd       β = 1/2, M = (3/8, 3/8, 1/4), (KL(P‖M) + KL(Q‖M)) / 2:
              KL(P‖M) = 1/2 ln 4/3 + 1/8 ln 1/2,  KL(Q‖M) = 1/4 ln 2/3 + 3/8 ln 3/2 = 1/8 ln 3/2

Logits are T · ln p, so that at temperature T the softened distributions are P and Q.
"""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.objectives.distill import Classes, Options, over
from luthier.objectives.divergence import divergence
from luthier.types import Batch, Refused

P = torch.tensor([[1 / 2, 3 / 8, 1 / 8]])
Q = torch.tensor([[1 / 4, 3 / 8, 3 / 8]])
FORWARD = log(2) / 2 - log(3) / 8
REVERSE = 3 * log(3) / 8 - log(2) / 4
JSD = (log(4 / 3) / 2 - log(2) / 8 + log(3 / 2) / 8) / 2


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("kind", "expected"), [("forward", FORWARD), ("reverse", REVERSE), ("jsd", JSD)])
def test_divergence(kind: Any, expected: float, temperature: float) -> None:
    """T² times the divergence of the softened distributions; adding a constant to logits changes nothing."""
    found = divergence(temperature * Q.log() + 5, temperature * P.log() - 3, kind, temperature=temperature)
    assert found.item() == pytest.approx(temperature**2 * expected, rel=1e-5)


def test_jsd_weighs_its_two_parts() -> None:
    """β = 3/4: M = (7/16, 3/8, 3/16); D = 3/4 (1/2 ln 8/7 + 1/8 ln 2/3) + 1/4 (1/4 ln 4/7 + 3/8 ln 2)."""
    expected = 3 / 4 * (log(8 / 7) / 2 + log(2 / 3) / 8) + 1 / 4 * (log(4 / 7) / 4 + 3 * log(2) / 8)
    assert divergence(Q.log(), P.log(), "jsd", beta=0.75).item() == pytest.approx(expected, rel=1e-5)


def test_of_two_widths_the_common_ids_are_compared() -> None:
    """A teacher whose head is padded by two ids: what it gives those is left out, and the rest sums to one again."""
    padded = torch.cat([P.log() - 1, torch.tensor([[4.0, 2.0]])], dim=1)
    assert divergence(Q.log(), padded, "forward").item() == pytest.approx(FORWARD, rel=1e-5)
    assert divergence(torch.cat([Q.log(), torch.zeros(1, 1)], 1), P.log(), "reverse").item() == pytest.approx(
        REVERSE, rel=1e-5
    )


class Given:
    """A model that gives these logits."""

    def __init__(self, logits_KC: Tensor):
        self.logits_KC = logits_KC

    def hidden(self, batch: Batch) -> Tensor:
        return self.logits_KC

    def sequence_logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        return hidden


def test_the_loss_is_a_weighted_sum_and_its_count() -> None:
    """Two rows of weight 1 and 2, T = 2, α = 1/4; student's logits 2 ln Q, teacher's 2 ln P, targets 0 and 1.

    At temperature 1 the student's softmax is Q² / ΣQ² = (4, 9, 9) / 22. D = 4 · FORWARD for both rows.
    L = 1 (1/4 · 4 F + 3/4 ln 22/4) + 2 (1/4 · 4 F + 3/4 ln 22/9),  count 3
    """
    student: Any = Given((2 * Q.log()).repeat(2, 1))
    batch = Batch(
        {
            "targets": torch.tensor([0, 1]),
            "weights": torch.tensor([1.0, 2.0]),
            "teacher_logits": (2 * P.log()).repeat(2, 1),
        },
        [0, 1],
    )
    objective = Classes(Options(alpha=0.25, temperature=2.0), student, lambda example: [])
    terms = objective.loss(student, batch)
    cross = log(22 / 4) + 2 * log(22 / 9)
    assert terms.count == 3
    assert float(terms.total) == pytest.approx(3 * FORWARD + 0.75 * cross, rel=1e-5)
    assert terms.report["divergence"] == pytest.approx((3 * 4 * FORWARD, 3))
    assert terms.report["cross_entropy"] == pytest.approx((cross, 3))


def test_what_a_loss_compares() -> None:
    """Forward KL unless something else is said; the teacher's answers alone where they are what is learned."""
    assert Options().compares == "forward"
    assert Options(answers=True).compares is None
    assert Options(answers=True, divergence="jsd").compares == "jsd"


@pytest.mark.parametrize("own", ["multi_label", "regression", "tags", "contrastive"])
def test_a_task_without_tokens_or_classes_is_refused(own: str) -> None:
    with pytest.raises(Refused) as refused:
        over(own)
    assert refused.value.findings[0].code == "distill.task"
