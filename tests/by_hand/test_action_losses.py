"""Losses and scores of actions by hand, the flow against plain numpy, and Wilson's interval."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from luthier.data.statistics import middle_of
from luthier.evaluate import actions as scores
from luthier.evaluate.proportions import wilson
from luthier.objectives import action_tokens, binned_actions, chunk_regression, flow_matching
from luthier.tasks.actions import with_action_tokens
from luthier.types import Batch

NAN = float("nan")


def batch(targets: list[list[float]], weights: list[float]) -> Batch:
    return Batch({"targets": torch.tensor(targets), "weights": torch.tensor(weights)}, list(range(len(weights))))


class Answers:
    """A backbone whose head gives what it is told to."""

    def __init__(self, logits: list[list[float]]):
        self.logits = torch.tensor(logits, requires_grad=True)

    def hidden(self, batch: Batch) -> None: ...

    def sequence_logits(self, hidden: Any, batch: Batch) -> torch.Tensor:
        return self.logits


@pytest.mark.parametrize(("kind", "total"), [("absolute", 0.5 + 1 + 2 * 2), ("squared", 0.25 + 1 + 2 * 4)])
def test_chunk_regression_leaves_out_what_is_past_the_end(kind: Any, total: float) -> None:
    """Row 0 knows both numbers (errors 0.5 and 1, weight 1), row 1 the first alone (error 2, weight 2): the sum of
    three errors by weight over 1 + 1 + 2 numbers. Nothing flows back from what is not known."""
    backbone: Any = Answers([[0.5, 1.0], [3.0, 9.0]])
    objective = chunk_regression.Objective(chunk_regression.Options(loss=kind), backbone, None)
    terms = objective.loss(backbone, batch([[0.0, 0.0], [1.0, NAN]], [1.0, 2.0]))
    assert (float(terms.total), terms.count) == (pytest.approx(total), 4.0)
    terms.total.backward()
    assert float(backbone.logits.grad[1, 1]) == 0.0
    assert bool(torch.isfinite(backbone.logits.grad).all())
    rows = [{"target": [0.0, 0.0]}, {"target": [1.0, NAN]}]
    plain = (0.5 + 1 + 2) / 3 if kind == "absolute" else (0.25 + 1 + 4) / 3
    assert objective.mean_loss([[0.5, 1.0], [3.0, 9.0]], rows) == pytest.approx(plain)


def test_bins() -> None:
    """Four bins of [-1, 1]: borders -1/2, 0, 1/2. What lies outside is in the outermost."""
    values = torch.tensor([-3.0, -1.0, -0.51, -0.49, 0.0, 0.5, 0.99, 1.0, 3.0])
    assert binned_actions.bins_of(values, 4).tolist() == [0, 0, 0, 1, 2, 3, 3, 3, 3]


def test_binned_actions_are_classes() -> None:
    """Two numbers in two bins each. Of the first (in bin 1) the bins have probabilities 1/4 and 3/4; the second is not
    known: -log 3/4 over one number."""
    backbone: Any = Answers([[0.0, math.log(3.0), 5.0, 5.0]])
    objective = binned_actions.Objective(binned_actions.Options(), backbone, None)
    terms = objective.loss(backbone, batch([[0.3, NAN]], [1.0]))
    assert (float(terms.total), terms.count) == (pytest.approx(-math.log(3 / 4)), 1.0)


class Straight:
    """An expert that knows that the action is y: v(x, τ) = (y - x) / (1 - τ), the field of the straight path to it."""

    action_numbers = 2

    def __init__(self, y: list[float], wrong: float = 0.0):
        self.y, self.wrong = torch.tensor(y), wrong

    def hidden(self, batch: Batch) -> torch.Tensor:
        return torch.zeros(1)

    def action_velocity(self, hidden: Any, batch: Batch, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return (self.y - x) / (1 - time[:, None]) + self.wrong


def test_the_flow_of_the_right_field_has_no_loss_and_ends_at_the_action() -> None:
    """On the path x = τ y + (1 - τ) ε the field (y - x)/(1 - τ) is y - ε, what is learned; Euler's steps follow a
    straight line exactly. A field that is off by 0.5 has the loss 0.25 a number: row 0 has two, row 1 (of weight 3)
    one. It is drawn to y at each step, and the last of ten adds 0.5/10."""
    right, off = Straight([0.3, -0.7]), Straight([0.3, -0.7], wrong=0.5)
    made = batch([[0.3, -0.7], [0.3, NAN]], [1.0, 3.0])
    for backbone, each, off_by in ((right, 0.0, 0.0), (off, 0.25, 0.05)):
        some: Any = backbone
        objective = flow_matching.Objective(flow_matching.Options(), some, None)
        terms = objective.loss(some, made)
        assert float(terms.total) == pytest.approx(each * (2 + 3), abs=1e-5)
        assert terms.count == 5.0
        outputs = objective.outputs(some, made)
        assert objective.mean_loss(outputs, [{}, {}]) == pytest.approx(each, abs=1e-5)
        assert outputs[0]["chunk"] == pytest.approx([0.3 + off_by, -0.7 + off_by], abs=1e-5)
        assert [one["known"] for one in outputs] == [2, 1]


def test_the_flow_is_that_of_plain_torch() -> None:
    """The same draw, written out as in the paper's appendix, with any velocity: a small network."""
    torch.manual_seed(3)
    net = torch.nn.Linear(3, 2)
    y = torch.randn(5, 2)

    def velocity(hidden: Any, batch: Any, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return net(torch.cat([x, time[:, None]], 1))

    backbone: Any = SimpleNamespace(hidden=lambda batch: torch.zeros(1), action_velocity=velocity, action_numbers=2)
    objective = flow_matching.Objective(flow_matching.Options(), backbone, None)
    torch.manual_seed(11)
    ours = objective.loss(backbone, batch(y.tolist(), [1.0] * 5))
    torch.manual_seed(11)
    beta = torch.distributions.Beta(1.5, 1.0).sample((5,)).numpy()
    noise, tau = torch.randn(5, 2).numpy(), 0.999 * (1 - beta)
    weight, bias = net.weight.detach().numpy(), net.bias.detach().numpy()
    total = 0.0
    for k in range(5):
        x = tau[k] * y[k].numpy() + (1 - tau[k]) * noise[k]
        v = weight @ np.append(x, tau[k]) + bias
        total += float(((v - (y[k].numpy() - noise[k])) ** 2).sum())
    assert float(ours.total) == pytest.approx(total, rel=1e-5)
    assert objective.outputs(backbone, batch(y.tolist(), [1.0] * 5)) == objective.outputs(
        backbone, batch(y.tolist(), [1.0] * 5)
    )


def test_times_are_drawn_as_the_paper_has_them() -> None:
    """b ~ Beta(1.5, 1) has the mean 1.5/2.5: τ has 0.999 · 0.4, nearer to noise, and never reaches 0.999."""
    torch.manual_seed(0)
    seen: list[float] = []

    def velocity(hidden: Any, batch: Any, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.extend(time.tolist())
        return x

    backbone: Any = SimpleNamespace(hidden=lambda batch: torch.zeros(1), action_velocity=velocity, action_numbers=1)
    flow_matching.Objective(flow_matching.Options(), backbone, None).loss(
        backbone, batch([[0.0]] * 20000, [1.0] * 20000)
    )
    assert float(np.mean(seen)) == pytest.approx(0.999 * 0.4, abs=5e-3)
    assert max(seen) <= 0.999


def test_scores_of_names_stand_beside_what_anyone_could_guess() -> None:
    """True: a a b a. Said: a b b a, right at three of four. Doing the last again (none at first): right at the second
    alone. The most frequent is a: three of four."""
    found = scores.of_names(["a", "b", "b", "a"], ["a", "a", "b", "a"], [None, "a", "a", "b"])
    assert {name: values.mean() for name, values in found.items()} == {
        "accuracy": 0.75, "accuracy_last_action": 0.25, "accuracy_most_frequent": 0.75,
    }  # fmt: skip
    told = scores.with_intervals(found, [0, 0, 1, 1])
    assert told["accuracy"]["value"] == 0.75
    assert told["accuracy"]["low"] == 0.5  # an episode is right at one or at both of its steps
    assert told["accuracy"]["high"] == 1.0


def test_scores_of_numbers() -> None:
    """Errors of (0.1, 0.3) and (0, 0): means 0.2 and 0. The last action (the mean, 0, at first) is off by (1, 1), then
    by (1, 0); the mean by (1, 1) and (0, 1)."""
    true = np.array([[1.0, 1.0], [0.0, 1.0]])
    found = scores.of_numbers(true + np.array([[0.1, -0.3], [0, 0]]), true, np.array([[0.0, 0], [1, 1]]), np.zeros(2))
    values = {name: values.tolist() for name, values in found.items()}
    assert values["action_error"] == pytest.approx([0.2, 0.0])
    assert values["action_error_last_action"] == [1.0, 0.5]
    assert values["action_error_mean_action"] == [1.0, 0.5]


def test_wilson() -> None:
    """Of 10 trials 8, by the closed form: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z²/n = 0.3841458821.
    At 0 and all of n it stays in [0, 1]: z²/(n + z²) and n/(n + z²)."""
    assert wilson(8, 10) == pytest.approx((0.4901624715, 0.9433178485), abs=1e-9)
    square = 1.959963984540054**2
    assert wilson(0, 20) == pytest.approx((0.0, square / (20 + square)), abs=1e-12)
    assert wilson(20, 20) == pytest.approx((20 / (20 + square), 1.0), abs=1e-12)


class Counts:
    """A decoder that says the last token + 1: of tokens 10 to 13, which are bins 0 to 3, after 10 comes 11."""

    device = torch.device("cpu")

    def lay_out(self, rows: list[Any]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([row["input_ids"] for row in rows])
        starts = torch.arange(len(rows)) * ids.shape[1]
        return {"input_ids": ids, "starts": starts, "lengths": torch.full((len(rows),), ids.shape[1])}

    def hidden(self, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.one_hot(batch["input_ids"].flatten() + 1, 20).float()

    def token_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def test_actions_are_written_number_by_number() -> None:
    """After 9 comes 10 (bin 0), then 11, 12; after 12 comes 13 (bin 3), and then 14, which is no action: of those that
    are, all are alike, and the first is taken (bin 0), after which 11 follows."""
    backbone: Any = Counts()
    objective = action_tokens.Objective(action_tokens.Options(), backbone, None)
    rows = [{"input_ids": [5, before, 12, 12, 12], "prompt": 2, "action_ids": [10, 11, 12, 13], "numbers": 3}
            for before in (9, 12)]  # fmt: skip
    assert objective.written(backbone, rows) == [[0, 1, 2], [3, 0, 1]]


def test_action_tokens_are_supervised_where_they_are_known() -> None:
    """Four bins of [-1, 1]: -1 is in bin 0, 0.4 in bin 2; the last number is past the end. Middles: -3/4 and 1/4."""
    row = {"input_ids": [5, 6], "full_length": 2, "target": [-1.0, 0.4, NAN], "weight": 1.0}
    made = with_action_tokens(row, [16, 17, 18, 19], 3)
    assert (made["input_ids"], made["supervised"]) == ([5, 6, 16, 18], [False, False, True, True])
    assert (made["prompt"], made["full_length"]) == (2, 5)
    assert middle_of([0, 2], 4).tolist() == [-0.75, 0.25]
