"""Preference losses on numbers whose logarithms are known, and what is told of rewards."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.evaluate.preference import calibration_error, plain, ranked, with_intervals
from luthier.objectives import OBJECTIVES, bradley_terry
from luthier.objectives.kto import next_other
from luthier.objectives.likelihood import per_sequence, sequences, supervised_tokens
from luthier.objectives.preference import Answers
from luthier.types import Finding, Refused

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


class Bare:
    """What an objective's formulas need of a backbone: nothing."""

    needs = "sequence_logits"
    dropout = True


def objective(name: str, **options: Any) -> Any:
    module = OBJECTIVES.load(name)
    return module.Objective(module.Options(**options), Bare(), None)


def answers(logs: Any, tokens: Any, ratios: Any = None) -> Answers:
    return Answers(torch.tensor(logs), torch.tensor(tokens), None if ratios is None else torch.tensor(ratios), None)


# One pair: the chosen answer has 2 tokens, log π = -ln 4 (a half each) and log-ratio ln 3; the rejected one 1 token,
# log π = -ln 4 and log-ratio 0.
PAIR = answers([[-LN4, -LN4]], [[2.0, 1.0]], [[LN3, 0.0]])


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # z = ln 3, σ(z) = 3/4.
        ("dpo", {"beta": 1}, LN4 - LN3),
        # 3/4 · -ln(3/4) + 1/4 · -ln(1/4).
        ("dpo", {"beta": 1, "label_smoothing": 0.25}, 0.75 * (LN4 - LN3) + 0.25 * LN4),
        # (3/4 · -ln(3/4) - 1/4 · -ln(1/4)) / (1/2).
        ("dpo", {"beta": 1, "label_smoothing": 0.25, "robust": True}, 2 * (0.75 * (LN4 - LN3) - 0.25 * LN4)),
        # Two tokens: z = 2 · ln 3 / 2.
        ("dpo", {"beta": 2, "length_normalized": True}, LN4 - LN3),
        # (ln 3 / 2 - 1/2)².
        ("ipo", {"beta": 1}, (LN3 / 2 - 0.5) ** 2),
        # Means -ln 2 and -ln 4: β ln 2 - γ = 2 ln 2 - ln 2, σ(ln 2) = 2/3.
        ("simpo", {"beta": 2, "gamma": LN2}, LN3 - LN2),
        # p = 1/2 and 1/4: odds 1 and 1/3, ratio 3; -ln(1/2) + 2 · -ln(3/4).
        ("orpo", {"beta": 2}, LN2 + 2 * (LN4 - LN3)),
        # Equal sums: ln 2; and half of the chosen answer's mean.
        ("cpo", {"beta": 1, "likelihood": 0.5}, LN2 + 0.5 * LN2),
    ],
)
def test_a_loss(name: str, options: dict[str, Any], expected: float) -> None:
    found = objective(name, **options).losses(PAIR)
    assert found.tolist() == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "orpo", "cpo"])
def test_a_likelier_chosen_answer_lowers_the_loss(name: str) -> None:
    """dL/d log π(chosen) < 0 < dL/d log π(rejected), where the log-ratio follows log π."""
    logs = torch.tensor([[-4.0, -2.0]], requires_grad=True)
    told = Answers(logs, torch.tensor([[2.0, 1.0]]), logs - torch.tensor([[-3.0, -3.0]]), None)
    objective(name).losses(told).sum().backward()
    assert logs.grad is not None
    assert logs.grad[0, 0] < 0 < logs.grad[0, 1]


def test_dpo_has_the_gradient_of_the_paper() -> None:
    """Section 4: -β σ(-z) for the chosen log-likelihood, its opposite for the other; at z = ln 3 a quarter of β."""
    ratios = torch.tensor([[LN3 / 0.5, 0.0]], requires_grad=True)
    told = Answers(ratios, torch.ones(1, 2), ratios, None)
    objective("dpo", beta=0.5).losses(told).sum().backward()
    assert ratios.grad is not None
    assert ratios.grad.tolist()[0] == pytest.approx([-0.125, 0.125], abs=1e-6)


def kto(ratios: list[list[float]], liked: list[bool], **options: Any) -> tuple[list[float], float]:
    made = objective("kto", **options)
    losses, z = made.row_losses(torch.tensor(ratios), [{"liked": one} for one in liked])
    return losses.tolist(), float(z)


def test_kto() -> None:
    """Unrelated answers at 0 and 2 ln 3: z = ln 3. Liked, r = 2 ln 3: 1 - σ(ln 3) = 1/4. The other, r = 0: the same,
    three times as heavy."""
    losses, z = kto([[2 * LN3, 0.0], [0.0, 2 * LN3]], [True, False], beta=1, undesirable=3)
    assert z == pytest.approx(LN3)
    assert losses == pytest.approx([0.25, 0.75], abs=1e-6)


def test_the_zero_of_kto_is_never_below_0_and_gets_no_gradient() -> None:
    assert kto([[0.0, -5.0], [0.0, 1.0]], [True, False], beta=1) == ([0.5, 0.5], 0.0)
    assert kto([[0.0, math.nan]], [True], beta=1) == ([0.5], 0.0)
    ratios = torch.tensor([[0.0, 2.0], [0.0, 4.0]], requires_grad=True)
    losses, _ = objective("kto", beta=1).row_losses(ratios, [{"liked": True}, {"liked": False}])
    losses.sum().backward()
    assert ratios.grad is not None
    assert ratios.grad[:, 1].tolist() == [0.0, 0.0]


def test_kto_reads_an_unrelated_answer_after_each_prompt() -> None:
    """Prompts 5 6 and 7; the rows of one prompt are no partners. The longest row has 4 tokens: 8 9 9 is cut."""
    rows = [
        {"row": 0, "input_ids": [5, 6, 1], "supervised": [False, False, True], "lengths": [3]},
        {"row": 0, "input_ids": [5, 6, 2], "supervised": [False, False, True], "lengths": [3]},
        {"row": 1, "input_ids": [7, 8, 9, 9], "supervised": [False, True, True, True], "lengths": [4]},
    ]
    found = objective("kto").complete(rows)
    assert [sequences(row)[1]["input_ids"] for row in found] == [[5, 6, 8, 9], [5, 6, 8, 9], [7, 1]]
    assert [supervised_tokens(row) for row in found] == [[1, 2], [1, 2], [3, 1]]
    assert [sequences(row)[0]["input_ids"] for row in found] == [row["input_ids"] for row in rows]
    assert objective("kto").complete(rows[:2]) == rows[:2]


def test_the_next_that_differs() -> None:
    assert next_other("aabca") == [2, 2, 3, 4, 2]
    assert next_other("aa") == [None, None]
    assert next_other("") == []


def test_bradley_terry() -> None:
    """Scores ln 3 and 0: -ln(3/4). With a margin of ln 3 half of the odds are gone: ln 2. (ln 3 + 0)² beside it."""
    scores, margins = torch.tensor([[LN3, 0.0]]), torch.tensor([LN3])

    def loss(**options: Any) -> float:
        options = {"centering": 0, **options}
        return float(bradley_terry.Objective(bradley_terry.Options(**options), Bare(), None).losses(scores, margins))  # type: ignore[arg-type]

    assert loss() == pytest.approx(LN4 - LN3)
    assert loss(margin=1) == pytest.approx(LN2)
    assert loss(margin=0.5) == pytest.approx(math.log(1 + 3**-0.5))
    assert loss(centering=0.1) == pytest.approx(LN4 - LN3 + 0.1 * LN3**2)


def test_sequences_of_a_row_and_the_sums_of_their_tokens() -> None:
    """``[a B | a C D]``: one token of the first is supervised, two of the second; the first token of any never is."""
    row = {"input_ids": [1, 2, 1, 3, 4], "supervised": [True, True, False, True, True], "lengths": [2, 3]}
    assert sequences(row) == [
        {"input_ids": [1, 2], "supervised": [True, True]}, {"input_ids": [1, 3, 4], "supervised": [False, True, True]},
    ]  # fmt: skip
    assert supervised_tokens(row) == [1, 2]
    sums: Tensor = per_sequence(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1, 2]))
    assert sums.tolist() == [1.0, 6.0]


def test_pairs_are_judged_by_their_rewards() -> None:
    """Right, wrong, a tie: 1/2. Margins 1, -2, 0; kl 3 over 12 tokens."""
    outputs = [
        {"chosen": 2.0, "rejected": 1.0, "kl": 1.0, "tokens": 4.0},
        {"chosen": 0.0, "rejected": 2.0, "kl": 2.0, "tokens": 6.0},
        {"chosen": 1.0, "rejected": 1.0, "kl": 0.0, "tokens": 2.0},
    ]
    found = plain(outputs)
    assert found == pytest.approx(
        {
            "preference_accuracy": 0.5,
            "reward_margin": -1 / 3,
            "chosen_reward": 1.0,
            "rejected_reward": 4 / 3,
            "kl": 0.25,
        }
    )
    intervals = with_intervals(outputs)
    assert {name: one["value"] for name, one in intervals.items()} == pytest.approx(found)
    assert intervals["reward_margin"]["low"] <= -1 / 3 <= intervals["reward_margin"]["high"]


def test_single_answers_are_judged_against_all_of_the_other_kind() -> None:
    """Liked 3 and 1, others 2 and 1: 3 beats both, 1 loses and ties: 2.5 of 4."""
    outputs = [{"chosen": 3.0}, {"rejected": 2.0}, {"chosen": 1.0}, {"rejected": 1.0}]
    assert plain(outputs) == pytest.approx(
        {"preference_accuracy": 0.625, "reward_margin": 0.5, "chosen_reward": 2.0, "rejected_reward": 1.5}
    )
    assert math.isnan(plain([{"chosen": 1.0}])["preference_accuracy"])


def test_ranked_is_the_area_under_the_roc_curve() -> None:
    from sklearn.metrics import roc_auc_score

    draw = torch.Generator().manual_seed(0)
    higher, lower = ((torch.randn(n, generator=draw) * 4).round().numpy() for n in (40, 25))
    labels = [1] * 40 + [0] * 25
    assert ranked(higher, lower) == pytest.approx(roc_auc_score(labels, [*higher, *lower]))


def test_the_calibration_error() -> None:
    """Two pairs of probability 3/4, one right: |1/2 - 3/4|. A third of 0.9, right: (2 · 1/4 + 1 · 0.1) / 3."""
    import numpy as np

    apart = np.array([LN3, -LN3])
    assert calibration_error(apart) == pytest.approx(0.25)
    assert calibration_error(np.array([*apart, math.log(9)])) == pytest.approx(0.2)
    assert calibration_error(np.array([0.0])) == 0.0


def test_one_answer_is_no_pair() -> None:
    made = objective("dpo")
    made.encoder = lambda example: [{"lengths": [3]}]
    with pytest.raises(Refused) as refused:
        made.encode(None)
    (finding,) = refused.value.findings
    assert isinstance(finding, Finding)
    assert finding.code == "prefer.unpaired"
