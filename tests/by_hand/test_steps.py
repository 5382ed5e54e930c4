"""Answers as steps: where each ends, what rows say of them, what they are rewarded with, and the loss of a judge."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from luthier.data.formats.choose import recognise, to_example
from luthier.data.formats.steps import step_ends, step_texts
from luthier.evaluate.rewards import Answer, Reward, Rewarded, judge
from luthier.evaluate.stepwise import plain
from luthier.models.backbone import Backbone
from luthier.objectives.stepwise import Objective, Options
from luthier.objectives.trajectory import advantages, token_rewards, with_steps
from luthier.types import Example, Refused, Source

SOURCE = Source("rows.jsonl", 1)
END = 1


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a", ["a"]), ("a\nb", ["a", "b"]), ("a\n\nb\n", ["a", "b"]), ("\na\n \n", ["a"]), ("", [""]), ("\n", ["\n"]),
        ("a b\n c", ["a b", " c"]),
    ],
)  # fmt: skip
def test_what_is_blank_between_separators_is_no_step(text: str, steps: list[str]) -> None:
    assert step_texts(text, "\n") == steps


@pytest.mark.parametrize(
    "text",
    ["red", "red cat\nold dog", "red\n\nold dog\nthe\n", "\n\nred\ncat", "", "\n", "é\n日本\nred", "a\n" * 40 + "b"],
)
@pytest.mark.parametrize("ends", [True, False], ids=["ended", "cut off"])
@pytest.mark.parametrize("separator", ["\n", "old"])
def test_a_step_ends_with_its_separator_and_the_last_with_the_answer(text: str, ends: bool, separator: str) -> None:
    """Against a plain walk: the first token up to which the text holds the step with its separator."""
    tokenizer = tiny.tokenizer(encoder=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + ([END] if ends else [])
    if not ids:
        return
    found, steps = step_ends(tokenizer, ids, separator), step_texts(text, separator)
    assert len(found) == len(steps)
    assert found[-1] == len(ids) - 1
    upto, place = 0, []
    for step in steps[:-1]:
        upto = text.index(step, upto) + len(step) + len(separator)
        place.append(next(t for t in range(len(ids)) if len(tokenizer.decode(ids[: t + 1])) >= upto))
    assert found[:-1] == place


def read(row: dict[str, Any]) -> Any:
    fmt = recognise([(SOURCE, row)], prefer=("stepwise", "rated-answers"))
    assert fmt == "stepwise"
    return to_example(SOURCE, row, "stepwise")


@pytest.mark.parametrize(
    ("more", "labels"),
    [
        ({"completions": ["a", "b", "c"], "labels": [True, False, None]}, [1, 0, None]),
        ({"steps": ["a", "b"], "labels": ["+", "-"]}, [1, 0]), ({"steps": ["a"], "labels": [0.25]}, [0.25]),
        ({"steps": ["a", "b", "c"], "step_ratings": [1, 0, -1]}, [1, 1, 0]),
        ({"steps": ["a", "b", "c"], "labels": [1, 0, 1]}, [1, 0, 1]),
    ],
)  # fmt: skip
def test_rows_with_steps(more: dict[str, Any], labels: list[float | None]) -> None:
    example = read({"prompt": "Why?", **more})
    steps = more.get("steps") or more["completions"]
    assert example.stepwise == list(zip(steps, labels, strict=True))
    assert example.messages == [{"role": "user", "content": "Why?"}]
    assert example.chosen == [{"role": "assistant", "content": "\n".join(steps)}]


@pytest.mark.parametrize(
    ("more", "code", "where"),
    [
        ({"steps": ["a", "b"], "labels": [1]}, "data.step-labels", "labels"),
        ({"steps": ["a"], "labels": [None]}, "data.step-labels", "labels"),
        ({"steps": ["a"], "labels": [-1]}, "data.step-labels", "labels[0]"),
        ({"steps": ["a"], "labels": ["maybe"]}, "data.step-labels", "labels[0]"),
        ({"steps": ["a"], "labels": [math.nan]}, "data.step-labels", "labels[0]"),
        ({"steps": ["a"], "step_ratings": [0.5]}, "data.step-labels", "step_ratings[0]"),
        ({"steps": ["a", " "], "labels": [1, 1]}, "data.empty-target", "steps[1]"),
        ({"steps": ["a", 3], "labels": [1, 1]}, "data.type", "steps[1]"),
        ({"steps": [], "labels": []}, "data.type", "steps"), ({"steps": "a", "labels": [1]}, "data.type", "steps"),
        ({"prompt": " ", "steps": ["a"], "labels": [1]}, "data.empty-text", "prompt"),
    ],
)  # fmt: skip
def test_rows_that_are_none(more: dict[str, Any], code: str, where: str) -> None:
    findings = read({"prompt": "Why?", **more})
    assert (code, f"rows.jsonl:1:{where}") in [(one.code, one.where) for one in findings]


def answer(text: str) -> Answer:
    return Answer([], text, "", "rows.jsonl:1", steps=len(step_texts(text, "\n")))


def given(name: str, values: list[Any], weight: float = 1.0, steps: str = "each") -> Reward:
    return Reward(name, weight, lambda prompts, answers, expected: values[: len(answers)], steps=steps)


def test_rewards_of_steps_are_weighted_and_added_up() -> None:
    """Two steps: 2 · (0.5, 1) + (1, 0) = (2, 2), and 3 for the whole answer. One step: 2 · 0.25 + 1 + 3."""
    rewards = [given("a", [[0.5, 1.0], [0.25]], 2.0), given("b", [[1, 0], [1]]), given("whole", [3.0, 3])]
    two, one = judge(rewards, [answer("x\ny"), answer("x")])
    assert two == Rewarded(7.0, {"a": 1.5, "b": 1.0, "whole": 3.0}, (2.0, 2.0))
    assert one == Rewarded(4.5, {"a": 0.25, "b": 1.0, "whole": 3.0})


@pytest.mark.parametrize(("steps", "total"), [("each", 1.5), ("mean", 0.5), ("min", 0.25)])
def test_what_becomes_of_several(steps: str, total: float) -> None:
    (found,) = judge([given("a", [[0.25, 1.0, 0.25]], steps=steps)], [answer("x\ny\nz")])
    assert found.total == total
    assert found.steps == ((0.25, 1.0, 0.25) if steps == "each" else ())


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ([1.0], "reinforce.reward-steps"), ([1.0, 1.0, 1.0], "reinforce.reward-steps"), ([], "reinforce.reward-steps"),
        ([1.0, math.nan], "reinforce.reward-value"), ([None, 1.0], "reinforce.reward-value"),
        ([1.0, math.inf], "reinforce.reward-value"), ([1.0, "1"], "reinforce.reward-value"),
    ],
)  # fmt: skip
def test_rewards_of_steps_that_are_none(value: list[Any], code: str) -> None:
    with pytest.raises(Refused) as refused:
        judge([given("a", [value, value])], [answer("x\ny"), answer("x\ny")])
    assert [one.code for one in refused.value.findings] == [code]
    assert refused.value.findings[0].where == "rows.jsonl:1"


def test_the_reward_of_a_step_stands_where_it_ends() -> None:
    """Answers of 3 and 2 tokens. Of the first a step ends at token 0 with 1, the last at 2 with 2, the whole has 10; of
    the second the whole has 5, and KL takes β · 1 from its first token. With γ = λ = 1 and no values an advantage is
    what is still to come."""
    counts, ratios = torch.tensor([3, 2]), torch.tensor([0.0, 0, 0, 1, 0])
    rewards = token_rewards(torch.tensor([10.0, 5.0]), ratios, counts, 0.5)
    rewards = with_steps(rewards, [[(0, 1.0), (2, 2.0)], []], counts)
    assert rewards.tolist() == [1.0, 0.0, 12.0, -0.5, 5.0]
    found, _ = advantages(rewards, torch.zeros(5), torch.zeros(2), counts, 1.0, 1.0)
    assert found.tolist() == [13.0, 12.0, 12.0, 4.5, 5.0]
    unchanged = token_rewards(torch.tensor([10.0, 5.0]), ratios, counts, 0.5)
    assert torch.equal(with_steps(unchanged, [[], []], counts), unchanged)


class Told(Objective):
    """Whose scores are given."""

    def scores(self, backbone: Any, batch: Any) -> torch.Tensor:
        return torch.tensor([0.0, math.log(3), 5.0, -math.log(3)])


def test_the_loss_of_judged_steps() -> None:
    """Scores 0, ln 3, 5 and -ln 3: probabilities 1/2, 3/4, -, 1/4. Labels 1, 0, none; 1/4 of a row that weighs 2:

    ln 2 + ln 4 + 2 (1/4 ln 4 + 3/4 ln 4/3), of 1 + 1 + 2. On the right side of one half are the last alone: 2 of 4
    (0 is not above)."""
    model = tiny.build("llama")
    backbone = Backbone(model, tiny.tokenizer(encoder=False), "m", "", "sequence_logits")
    vars(backbone)["reads"] = "last"
    objective = Told(Options(), backbone, None)
    rows = [
        {"row": 0, "input_ids": [9, 10, 11, 12], "lengths": [4], "weight": 1.0, "step_at": [0, 2, 3],
         "step_labels": [1.0, 0.0, None]},
        {"row": 1, "input_ids": [9, 10], "lengths": [2], "weight": 2.0, "step_at": [1], "step_labels": [0.25]},
    ]  # fmt: skip
    batch = objective.collate(rows)
    assert batch["step_starts"].tolist()[:3] == [0, 0, 0]
    assert batch["step_lengths"].tolist() == [1, 3, 4, 2]
    terms = objective.loss(backbone, batch)
    expected = math.log(2) + math.log(4) + 2 * (math.log(4) / 4 + 3 * math.log(4 / 3) / 4)
    assert float(terms.total) == pytest.approx(expected, rel=1e-6)
    assert terms.count == 4
    assert terms.report["step_accuracy"] == (2.0, 4.0)
    first, second = objective.outputs(backbone, batch)
    assert first["steps"] == pytest.approx([0.5, 0.75, 1 / (1 + math.exp(-5))])
    assert (first["loss"], second["loss"]) == pytest.approx(
        (math.log(2) + math.log(4), math.log(4) / 4 + 3 * math.log(4 / 3) / 4)
    )
    assert second["score"] == pytest.approx(0.25)
    assert objective.mean_loss([first, second], rows) == pytest.approx((first["loss"] + second["loss"]) / 3)


def test_metrics_of_steps() -> None:
    """Judged: 0.9/1, 0.4/0; 0.3/1, 0.2/0, and one that nobody judged. Right: 3 of 4. The first wrong step is found in
    the first row (its second), in the other not. A right step is above a wrong one in 3 of 4 pairs."""
    rows = [
        {"steps": [0.9, 0.4], "labels": [1.0, 0.0]}, {"steps": [0.3, 0.1, 0.2], "labels": [1.0, math.nan, 0.0]},
    ]  # fmt: skip
    found = plain(rows)
    assert found == {"step_accuracy": 0.75, "first_error": 0.5, "step_auc": 0.75}
    assert np.isnan(plain([{"steps": [0.9], "labels": [1.0]}])["step_auc"])


def test_steps_that_hold_the_separator_are_refused() -> None:
    objective = SimpleNamespace(options=Options(), encoder=lambda example: [])
    told = Example(
        SOURCE, messages=[{"role": "user", "content": "Why?"}], chosen=[{"role": "assistant", "content": "a"}],
        stepwise=[("a\nb", 1.0), ("c", 0.0)],
    )  # fmt: skip
    with pytest.raises(Refused, match="holds the separator"):
        Objective.encode(objective, told)  # type: ignore[arg-type]
