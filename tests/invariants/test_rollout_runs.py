"""While a model learns from its own answers: what is drawn, what is learned, what is refused, and going on."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import asked_rows, assert_same_gradient, nudge, reinforced, source
from transformers import AutoModelForCausalLM

import luthier
import tiny
from luthier.engine.checkpoint import latest
from luthier.evaluate.rewards import Reward
from luthier.objectives.online import OLD
from luthier.objectives.preference import REFERENCE
from luthier.types import Refused

VARIANTS = ("grpo", "dr_grpo", "dapo", "gspo", "rloo")
SOME = {"group_size": 4, "max_new_tokens": 6}
trial = partial(reinforced, "grpo", SOME)
DROPPED = {"gpt2": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}, "llama": {"attention_dropout": 0.3}}


@pytest.mark.parametrize(
    ("name", "keys"),
    [("llama", {"method": "lora", "lora": {"rank": 2, "dropout": 0.3}}), ("gpt2", {"method": "full"})],
)  # fmt: skip
@pytest.mark.parametrize("iterations", [1, 2])
def test_at_the_first_step_the_ratio_is_one_and_kl_nothing(
    name: str, keys: dict[str, Any], iterations: int, tiny_folder: Any, tmp_path: Path
) -> None:
    """With dropout in config and adapter, and with log-probabilities that were read when the answers were written."""
    made = trial(tiny_folder(name, **DROPPED[name]), tmp_path, grpo={"iterations": iterations}, **keys)
    first, second = made.fit(steps=2, micro_tokens=64, learning_rate=1e-2).records[:2]
    assert first["ratio"] == pytest.approx(1, abs=1e-6)
    assert first["kl"] == pytest.approx(0, abs=1e-7)
    assert first["clip_fraction"] == 0
    assert second["kl"] > 1e-6
    assert (abs(second["ratio"] - 1) > 1e-6) == (iterations == 2)
    assert (first["reward"] == second["reward"]) == (iterations == 2)


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_gradient_for_any_split(variant: str, packing: str, tiny_folder: Any, tmp_path: Path) -> None:
    """The same answers in one micro-batch or in many, with weights, away from the reference: one gradient."""
    made = trial(tiny_folder("llama"), tmp_path, grpo={"loss": variant}, packing=packing)
    nudge(made)
    one, many = (made.fit(batch_size=8, micro_tokens=tokens) for tokens in (10**6, 64))
    assert one.records[0]["kl"] > 0
    assert_same_gradient(many.gradient, one.gradient)
    assert one.losses == pytest.approx(many.losses, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("iterations", "at"), [(1, 3), (3, 3), (3, 4), (3, 5)])
def test_gone_on_from_a_checkpoint_it_is_the_same_bits(
    iterations: int, at: int, tiny_folder: Any, tmp_path: Path
) -> None:
    """At the border of a rollout it draws the same answers; in the middle of one it goes on with those it had."""
    keys: dict[str, Any] = {"grpo": {"iterations": iterations, "truncated": "drop", "max_new_tokens": 24}}
    model, how = tiny_folder("llama"), {"batch_size": 4, "steps": 7, "learning_rate": 1e-2}
    whole = trial(model, tmp_path, **keys).fit(save_every=1, keep=9, **how)
    found, _ = latest(whole.folder, "hash", step=at)
    assert found is not None
    torch.manual_seed(77)  # whatever was drawn before
    resumed = trial(model, tmp_path, **keys).fit(resume=found, folder=tmp_path / "on", **how)
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())
    watched = ("loss", "reward", "length", "kl", "ratio", "equal_groups", "dropped")
    for old, new in zip(whole.records[at:], resumed.records, strict=True):
        assert [old.get(name) for name in watched] == [new.get(name) for name in watched]


def test_what_is_drawn_depends_on_seed_and_step_alone(tiny_folder: Any, tmp_path: Path) -> None:
    made = trial(tiny_folder("llama"), tmp_path)
    rows = made.prepared.train.rows
    drawn = []
    for step, state in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(state)
        drawn.append([row["input_ids"] for row in source(made).rows(step, rows)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({tuple(ids) for ids in drawn[0][:4]}) > 1, "answers of a group differ"


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_log_probabilities_are_those_of_the_answers_tokens(
    name: str, temperature: float, tiny_folder: Any, tmp_path: Path
) -> None:
    """Against transformers' own model, LoRA being nothing yet, on each answer alone: log softmax(logits / T) at its
    tokens, the terminator too, and nowhere else; and only an answer that ended ends in a terminator."""
    made = trial(tiny_folder(name), tmp_path, grpo={"temperature": temperature, "iterations": 2, "max_new_tokens": 40})
    prepared, plain = made.prepared, AutoModelForCausalLM.from_pretrained(tiny_folder(name)).eval()
    rows = source(made).rows(0, prepared.train.rows)
    ends = set(prepared.task.terminators(prepared.backbone))
    for row in rows:
        asked, ids = row["input_ids"][: row["prompt"]], row["input_ids"][row["prompt"] :]
        assert row["supervised"] == [False] * len(asked) + [True] * len(ids)
        assert not ends & set(ids[:-1])
        assert len(ids) == 40 or ids[-1] in ends
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([row["input_ids"]])).logits[0] / temperature
        expected = logits.log_softmax(-1)[range(len(asked) - 1, len(row["input_ids"]) - 1), ids]
        torch.testing.assert_close(row[OLD], expected, rtol=0, atol=2e-5)
    assert any(row["input_ids"][-1] in ends for row in rows)


@pytest.mark.parametrize(
    ("keys", "reference"),
    [({"method": "lora"}, "switched"), ({"method": "lora"}, "copy"), ({"method": "full"}, "auto")],
)  # fmt: skip
def test_the_reference_does_not_move(keys: dict[str, Any], reference: str, tiny_folder: Any, tmp_path: Path) -> None:
    made = trial(tiny_folder("llama"), tmp_path, grpo={"reference": reference}, **keys)
    rows = source(made).rows(0, made.prepared.train.rows)
    made.fit(steps=10, learning_rate=1e-2)
    asked = source(made).reference
    assert asked is not None
    after = asked(rows)
    assert all(torch.equal(row[REFERENCE], one) for row, one in zip(rows, after, strict=True))


def test_what_cannot_be_switched_off_is_refused_where_that_is_asked_for(tiny_folder: Any, tmp_path: Path) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", asked_rows(8))
    for beta, codes in ((0.1, [("reinforce.reference", "grpo.reference")]), (0, [])):
        findings, _ = luthier.check(
            task="reinforce", model=tiny_folder("llama"), data=data, method="full",
            grpo={**SOME, "reference": "switched", "beta": beta},
        )  # fmt: skip
        assert [(one.code, one.where) for one in findings if one.severity == "error"] == codes


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_rewards_are_counted_and_move_nothing(variant: str, tiny_folder: Any, tmp_path: Path) -> None:
    made = trial(tiny_folder("llama"), tmp_path, grpo={"loss": variant, "beta": 0})
    made.prepared.task.rewards[:] = [Reward("same", 1.0, lambda prompts, answers, expected: [0.3] * len(answers))]
    fitted = made.fit(steps=2, learning_rate=1e-2)
    assert [record["equal_groups"] for record in fitted.records] == [1.0, 1.0]
    assert all(torch.equal(value, made.start[name]) for name, value in fitted.weights.items())


def test_groups_of_equal_rewards_are_drawn_anew_within_a_bound(tiny_folder: Any, tmp_path: Path) -> None:
    """Only prompts with an odd number get rewards that differ. Two of four are even; what is drawn in their place comes
    from the other prompts, and after three tries nothing more is drawn. The reward told is that of the first draw."""
    made = trial(tiny_folder("llama"), tmp_path, rows=16, grpo={"redraws": 3, "beta": 0})

    def odd(prompts: Any, answers: list[str], expected: list[str]) -> list[float]:
        return [float(int(wanted) % 2 * (at % 4)) for at, wanted in enumerate(expected)]

    made.prepared.task.rewards[:] = [Reward("odd", 1.0, odd)]
    drawn = sorted(made.prepared.train.rows, key=lambda row: int(row["expected"]))[:4]
    rollouts = source(made)
    rows = rollouts.rows(0, drawn)
    first = (0 + 1 + 2 + 3) * 2
    assert rollouts.report["reward"] == (first, 16)
    count, of = rollouts.report["redrawn"]
    assert of == 4
    assert 2 <= count <= 2 + 2 + 2
    left = round(rollouts.report["equal_groups"][0])
    learned = {row["expected"] for row in rows}
    assert sum(int(one) % 2 == 0 for one in learned) == left < 2
    assert {"1", "3"} < learned
    again = source(made).rows(0, drawn)
    assert [row["input_ids"] for row in again] == [row["input_ids"] for row in rows]


def test_what_is_never_equal_is_never_drawn_anew(tiny_folder: Any, tmp_path: Path) -> None:
    plain, redrawn = (trial(tiny_folder("llama"), tmp_path, grpo={"redraws": many}) for many in (0, 3))
    for one in (plain, redrawn):
        one.prepared.task.rewards[:] = [
            Reward("all", 1.0, lambda p, answers, e: [float(i) for i in range(len(answers))])
        ]
    found = [source(one).rows(0, one.prepared.train.rows) for one in (plain, redrawn)]
    assert [row["input_ids"] for row in found[0]] == [row["input_ids"] for row in found[1]]


def test_answers_that_never_end_are_counted_and_dropped_where_asked(tiny_folder: Any, tmp_path: Path) -> None:
    """At most two tokens: hardly one ends. Kept, all are learned from; dropped, none of them is."""
    kept, dropped = (
        trial(tiny_folder("llama"), tmp_path, grpo={"truncated": way, "max_new_tokens": 2, "beta": 0})
        for way in ("keep", "drop")
    )
    rows = dropped.prepared.train.rows
    made, left = source(kept), source(dropped)
    every, some = made.rows(0, rows), left.rows(0, rows)
    ended = round(made.report["finished"][0])
    assert (len(every), len(some)) == (4 * len(rows), ended)
    assert left.report["dropped"] == (4 * len(rows) - ended, 4 * len(rows))
    assert "dropped" not in made.report


def test_where_no_answer_ended_the_step_changes_nothing(tiny_folder: Any, tmp_path: Path) -> None:
    made = trial(
        tiny_folder("llama"), tmp_path, rows=1, grpo={"truncated": "drop", "max_new_tokens": 1, "group_size": 2}
    )
    fitted = made.fit(learning_rate=1e-2)
    (event, record) = fitted.records
    assert event["event"] == "no-answer"
    assert (record["dropped"], record["rows"], record["loss"]) == (1.0, 0, 0.0)
    assert all(torch.equal(value, made.start[name]) for name, value in fitted.weights.items())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("[float('nan')] * len(answers)", "reinforce.reward-value"),
        ("[None] * len(answers)", "reinforce.reward-value"),
        ("[0.0]", "reinforce.reward-count"), ("[1 / 0]", "reinforce.reward-raised"),
    ],
)  # fmt: skip
def test_a_reward_that_is_none_stops_before_a_step(body: str, code: str, tiny_folder: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(f"def bad(prompts, answers, expected):\n    return {body}\n")
    data = {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", asked_rows(8)), "eval": 0.0}
    with pytest.raises(Refused) as refused:
        luthier.tune(
            task="reinforce", model=tiny_folder("llama"), data=data, method="lora", grpo=SOME, out=str(tmp_path),
            name="bad", reinforce={"rewards": ["number", {"function": str(tmp_path / "bad.py:bad")}]},
        )  # fmt: skip
    assert {finding.code for finding in refused.value.findings} == {code}
    assert all("rows.jsonl:" in finding.where for finding in refused.value.findings)
    lines = (tmp_path / "bad/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert not any(json.loads(line)["kind"] == "train" for line in lines)


@pytest.mark.parametrize(
    ("row", "where"),
    [
        ({"prompt": "  ", "final": 3}, "rows.jsonl:9:prompt"), ({"prompt": "red", "final": " "}, "rows.jsonl:9:final"),
        ({"prompt": "red", "final": None}, "rows.jsonl:9:final"), ({"prompt": [], "final": 3}, "rows.jsonl:9:prompt"),
    ],
)  # fmt: skip
def test_a_row_that_asks_nothing_is_refused(row: dict[str, Any], where: str, tiny_folder: Any, tmp_path: Path) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", [*asked_rows(8), row])
    findings, _ = luthier.check(task="reinforce", model=tiny_folder("llama"), data=data)
    assert where in " ".join(finding.where for finding in findings if finding.severity == "error")


def test_a_prompt_that_leaves_no_room_is_told(tiny_folder: Any, tmp_path: Path) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", asked_rows(8))
    findings, _ = luthier.check(task="reinforce", model=tiny_folder("llama"), data=data, grpo={"max_new_tokens": 120})
    assert [finding.code for finding in findings if finding.severity == "error"] == ["data.too-long"]
