"""While PPO learns from its own answers: one base for all models, the value model's fate, minibatches, and going on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import REWARDS, asked_rows, assert_same_gradient, nudge, preference_rows, reinforced, source
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

import luthier
import tiny
from luthier.engine.checkpoint import latest
from luthier.evaluate.outputs import Reader
from luthier.evaluate.rewards import Reward
from luthier.objectives.online import OLD
from luthier.objectives.ppo import ADVANTAGES, BETA, RETURNS, VALUES, ValueReader
from luthier.objectives.preference import REFERENCE
from luthier.types import Refused

SOME = {"group_size": 2, "max_new_tokens": 6, "epochs": 1}
trial = partial(reinforced, "ppo", SOME)
METHODS: list[dict[str, Any]] = [
    {"method": "lora", "lora": {"rank": 2, "dropout": 0.3}}, {"method": "full"},
]  # fmt: skip


@pytest.mark.parametrize("keys", METHODS, ids=["lora", "full"])
def test_at_the_first_step_the_ratio_is_one_and_kl_nothing(
    keys: dict[str, Any], tiny_folder: Any, tmp_path: Path
) -> None:
    made = trial(tiny_folder("llama", attention_dropout=0.3), tmp_path, ppo={"epochs": 2}, **keys)
    first, second = made.fit(steps=2, micro_tokens=64, learning_rate=1e-2).records[:2]
    assert first["ratio"] == pytest.approx(1, abs=1e-6)
    assert first["kl"] == pytest.approx(0, abs=1e-7)
    assert first["clip_fraction"] == first["value_clip_fraction"] == 0
    assert first["policy_loss"] == pytest.approx(0, abs=1e-5), "whitened advantages add up to nothing at ratio 1"
    assert second["kl"] > 1e-6
    assert abs(second["ratio"] - 1) > 1e-6
    assert second["value_loss"] != first["value_loss"]
    assert first["entropy"] > 0


def test_one_base_holds_policy_reference_reward_and_value(tiny_folder: Any, tmp_path: Path) -> None:
    """The weights of the base are there once; the reward's and the value's adapters have their own few numbers, and
    each reads as it would alone: the reward as its run opened on its own, to the last bits."""
    model = tiny_folder("llama")
    reward = luthier.tune({
        "task": "reward", "model": model, "data": tiny.write_jsonl(tmp_path / "pairs.jsonl", preference_rows(12)),
        "method": "lora", "lora": {"rank": 3}, "steps": 4, "learning_rate": 1e-2, "out": str(tmp_path), "name": "judge",
    })  # fmt: skip
    name = str(reward.folder)
    made = trial(model, tmp_path, rewards=[{"model": name}], ppo={"value_from": name})
    prepared = made.prepared
    scorer = prepared.task.scorers[name]
    assert scorer.predictor.backbone.model is prepared.backbone.model is prepared.objective.value.model
    base = [n for n, _ in prepared.backbone.model.named_parameters() if "lora_" not in n]
    plain = [n for n, _ in luthier.load(name).predictor.backbone.model.named_parameters() if "lora_" not in n]
    assert len(base) == len(plain), "but for the head of either, no tensor of the base is there twice"
    trained = prepared.adaptation.parameters
    assert any(".value." in n for n in trained)
    assert not any(".reward0." in n for n in trained)
    asked = [[{"role": "user", "content": f"the {word}"}] for word in tiny.WORDS[:6]]
    said = ["", *tiny.WORDS[1:6]]
    nudge(made)  # whatever the policy is by now
    alone = luthier.load(name).predict([
        [*turns, {"role": "assistant", "content": text}] for turns, text in zip(asked[1:], said[1:], strict=True)
    ])  # fmt: skip
    found = scorer(asked, said, [""] * 6)
    assert found[1:] == pytest.approx([one["score"] for one in alone], abs=1e-5)
    assert len(set(found)) == 6
    before = scorer(asked, said, [""] * 6)
    fitted = made.fit(steps=3, learning_rate=1e-2)
    assert scorer(asked, said, [""] * 6) == before, "the reward does not move"
    assert all(record["reward"] == record["reward"] for record in fitted.records)
    assert all(not torch.equal(value, made.start[n]) for n, value in fitted.weights.items() if "lora_B" in n)


def test_a_reward_model_of_another_base_is_opened_beside(tiny_folder: Any, tmp_path: Path) -> None:
    data = tiny.write_jsonl(tmp_path / "pairs.jsonl", preference_rows(12))
    reward = luthier.tune({
        "task": "reward", "model": tiny_folder("gpt2"), "data": data, "method": "full", "steps": 2,
        "out": str(tmp_path), "name": "other",
    })  # fmt: skip
    made = trial(tiny_folder("llama"), tmp_path, rewards=[{"model": str(reward.folder)}])
    scorer = made.prepared.task.scorers[str(reward.folder)]
    assert scorer.predictor.backbone.model is not made.prepared.backbone.model
    fitted = made.fit(steps=1)
    assert fitted.records[0]["reward"] == fitted.records[0]["reward"]


@pytest.mark.parametrize(
    ("name", "told"), [("nowhere", "no run folder"), ("sft", "a run of `chat`")]
)  # fmt: skip
def test_what_is_no_reward_model_is_refused(name: str, told: str, tiny_folder: Any, tmp_path: Path) -> None:
    model = tiny_folder("llama")
    if name == "sft":
        data = tiny.write_jsonl(tmp_path / "chats.jsonl", [{"prompt": f"{i}", "completion": "a"} for i in range(8)])
        luthier.tune(task="chat", model=model, data=data, method="lora", steps=1, out=str(tmp_path), name="sft")
    rows = tiny.write_jsonl(tmp_path / "rows.jsonl", asked_rows(8))
    findings, _ = luthier.check(
        task="reinforce", model=model, data=rows, ppo=SOME, reinforce={"rewards": [{"model": str(tmp_path / name)}]}
    )
    (error,) = [one for one in findings if one.severity == "error"]
    assert error.code == "reinforce.reward-model"
    assert told in str(error)


def test_a_value_model_of_its_own_needs_unchanged_weights(tiny_folder: Any, tmp_path: Path) -> None:
    rows = tiny.write_jsonl(tmp_path / "rows.jsonl", asked_rows(8))
    findings, _ = luthier.check(
        task="reinforce", model=tiny_folder("llama"), data=rows, method="full", ppo=SOME | {"value": "adapter"}
    )
    assert [one.code for one in findings if one.severity == "error"] == ["reinforce.value"]


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("value", ["adapter", "head"])
def test_one_gradient_for_any_split(value: str, packing: str, tiny_folder: Any, tmp_path: Path) -> None:
    made = trial(tiny_folder("llama"), tmp_path, ppo={"value": value}, packing=packing)
    nudge(made)
    one, many = (made.fit(batch_size=8, micro_tokens=tokens) for tokens in (10**6, 64))
    assert one.records[0]["kl"] > 0
    assert_same_gradient(many.gradient, one.gradient)
    assert one.losses == pytest.approx(many.losses, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_gone_on_from_a_checkpoint_it_is_the_same_bits(at: int, tiny_folder: Any, tmp_path: Path) -> None:
    """Within a pass, between passes, and at the border of a rollout, where β that is led is what is carried on."""
    led = {"epochs": 2, "minibatches": 2, "kl_target": 0.01, "kl_horizon": 10, "truncated": "bootstrap"}
    keys: dict[str, Any] = {"ppo": led | {"max_new_tokens": 24}}
    model, how = tiny_folder("llama"), {"batch_size": 4, "steps": 7, "learning_rate": 1e-2}
    whole = trial(model, tmp_path, **keys).fit(save_every=1, keep=9, **how)
    found, _ = latest(whole.folder, "hash", step=at)
    assert found is not None
    torch.manual_seed(77)
    resumed = trial(model, tmp_path, **keys).fit(resume=found, folder=tmp_path / "on", **how)
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())
    left_out = ("seconds", "tokens_per_s", "memory_mb")
    for old, new in zip(whole.records[at:], resumed.records, strict=True):
        assert {k: v for k, v in old.items() if k not in left_out} == {
            k: v for k, v in new.items() if k not in left_out
        }
    assert len({record["beta"] for record in whole.records}) == 2


def test_a_pass_meets_every_answer_once(tiny_folder: Any, tmp_path: Path) -> None:
    made = trial(tiny_folder("llama"), tmp_path, ppo={"epochs": 2, "minibatches": 3})
    rows, asked = source(made), made.prepared.train.rows
    parts = [[tuple(row["input_ids"]) for row in rows.rows(step, asked)] for step in range(6)]
    assert [len(part) for part in parts] == [6, 5, 5] * 2
    first, second = (sorted(one for part in parts[at : at + 3] for one in part) for at in (0, 3))
    assert first == second == sorted(tuple(row["input_ids"]) for row in rows.held)
    assert parts[:3] != parts[3:], "each pass has an order of its own"


def test_a_trajectory_is_what_its_formulas_say(tiny_folder: Any, tmp_path: Path) -> None:
    """Of real answers: values by transformers' own classifier with PEFT's adapter (see below), rewards and advantages
    by a plain loop over single answers, whitened over all their tokens and no others."""
    made = trial(tiny_folder("llama"), tmp_path, ppo={"gamma": 0.9, "lam": 0.8, "beta": 0.3})
    nudge(made)
    with torch.no_grad():  # as `fit` begins
        for name, parameter in made.prepared.adaptation.parameters.items():
            parameter.copy_(made.start[name])
    rows = source(made).rows(0, made.prepared.train.rows)
    whole = []
    for row in rows:
        n, later, ahead = len(row[VALUES]), 0.0, 0.0
        rewards = (-0.3 * (row[OLD] - row[REFERENCE])).tolist()
        rewards[-1] += row["score"]
        found = [0.0] * n
        for t in reversed(range(n)):
            later = rewards[t] + 0.9 * ahead - float(row[VALUES][t]) + 0.9 * 0.8 * later
            ahead, found[t] = float(row[VALUES][t]), later
        whole += found
        returns = [a + float(v) for a, v in zip(found, row[VALUES], strict=True)]
        assert row[RETURNS].tolist() == pytest.approx(returns, abs=1e-4)
    mean = sum(whole) / len(whole)
    spread = (sum((a - mean) ** 2 for a in whole) / (len(whole) - 1)) ** 0.5
    told = torch.cat([row[ADVANTAGES] for row in rows]).tolist()
    assert told == pytest.approx([(a - mean) / spread for a in whole], abs=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_value_model_is_saved_and_opens_again(method: str, tiny_folder: Any, tmp_path: Path) -> None:
    """In a fresh run of the same base; and an adapter with a head is a classifier to transformers and PEFT."""
    (tmp_path / "mine.py").write_text(REWARDS)
    model = tiny_folder("llama")
    data = {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", asked_rows(8)), "eval": 0.25}
    run = luthier.tune({
        "task": "reinforce", "model": model, "data": data, "method": method, "steps": 4, "learning_rate": 1e-2,
        "ppo": SOME, "reinforce": {"rewards": [{"function": str(tmp_path / "mine.py:mixed")}]}, "out": str(tmp_path),
        "name": "ppo",
    })  # fmt: skip
    opened = luthier.load(str(run.folder)).predictor
    row = {"row": 0, "input_ids": [5, 6, 7, 8, 9], "supervised": [False, False, True, True, True], "lengths": [5],
           "prompt": 2, "weight": 1.0}  # fmt: skip
    (values,) = opened.reader.outputs(ValueReader(opened.objective), [row])
    assert len(values) == 4
    assert len(set(values.tolist())) == 4
    assert "Explained variance" in (run.folder / "report.html").read_text(encoding="utf-8")
    if method == "full":
        return
    assert run.export("merged")["relative"] < 1e-4
    classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, pad_token_id=2)
    plain = PeftModel.from_pretrained(classifier, run.folder / "final" / "value").eval()
    with torch.no_grad():
        expected = [float(plain(input_ids=torch.tensor([row["input_ids"][:end]])).logits) for end in (2, 3, 4, 5)]
    assert values.tolist() == pytest.approx(expected, abs=1e-5)
    again = trial(model, tmp_path, ppo={"value_from": str(run.folder)})
    (begun,) = Reader(again.prepared.backbone, 4096).outputs(ValueReader(again.prepared.objective), [row])
    torch.testing.assert_close(begun, values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", ["keep", "drop", "bootstrap", "penalise"])
def test_answers_that_never_end(way: str, tiny_folder: Any, tmp_path: Path) -> None:
    """Two tokens at most: hardly one ends. With λ = γ = 1 and β = 0 the first token's return is all that comes."""
    made = trial(
        tiny_folder("llama"), tmp_path,
        ppo={"truncated": way, "max_new_tokens": 2, "beta": 0, "lam": 1, "penalty": 5, "whiten": False},
    )  # fmt: skip
    made.prepared.task.rewards[:] = [Reward("one", 1.0, lambda prompts, answers, expected: [1.0] * len(answers))]
    found = source(made)
    rows = found.rows(0, made.prepared.train.rows)
    ended = round(found.report["finished"][0])
    assert len(rows) == (ended if way == "drop" else 16)
    values = Reader(made.prepared.backbone, 4096).outputs(ValueReader(made.prepared.objective), rows)
    for row, value in zip(rows, values, strict=True):
        cut = {"keep": 1.0, "penalise": -4.0, "bootstrap": float(value[-1])}
        expected = 1.0 if row["finished"] else cut[way]
        assert float(row[RETURNS][0]) == pytest.approx(expected, abs=1e-5)


def test_beta_is_led_to_its_target(tiny_folder: Any, tmp_path: Path) -> None:
    """16 answers of a horizon of 16: β falls by a fifth where KL is nothing, and rises by one where it is far over."""
    made = trial(tiny_folder("llama"), tmp_path, ppo={"kl_target": 0.5, "kl_horizon": 16, "beta": 0.1})
    source(made).rows(0, made.prepared.train.rows)
    assert made.prepared.objective.state[BETA] == pytest.approx(0.08)
    far = trial(tiny_folder("llama"), tmp_path, ppo={"kl_target": 1e-9, "kl_horizon": 16, "beta": 0.1})
    with torch.no_grad():
        for name, parameter in far.prepared.adaptation.parameters.items():
            if "lora_B.default" in name:
                parameter += 0.1
    source(far).rows(0, far.prepared.train.rows)
    assert far.prepared.objective.state[BETA] == pytest.approx(0.12)


def test_a_reward_that_is_none_stops_before_a_step(tiny_folder: Any, tmp_path: Path) -> None:
    made = trial(tiny_folder("llama"), tmp_path)
    made.prepared.task.rewards[:] = [Reward("bad", 1.0, lambda prompts, answers, expected: [None] * len(answers))]
    with pytest.raises(Refused) as refused:
        made.fit()
    assert {one.code for one in refused.value.findings} == {"reinforce.reward-value"}
