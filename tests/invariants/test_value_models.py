"""A value model of weights of its own: what it reads, that it trains whole, is saved, and begins as another run's."""

from __future__ import annotations

import json
import shutil
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
from luthier.objectives.ppo import VALUES, ValueReader
from luthier.plan.plan import plan

SOME = {"group_size": 2, "max_new_tokens": 6, "epochs": 1, "value": "model"}
trial = partial(reinforced, "ppo", SOME)
METHODS: list[dict[str, Any]] = [{"method": "lora", "lora": {"rank": 2}}, {"method": "full"}]
IDS = [[5, 6, 7, 8, 9], [300, 17, 42], [9, 8, 21, 30, 31, 32, 33]]


def rows() -> list[dict[str, Any]]:
    return [
        {"row": at, "input_ids": ids, "supervised": [False] + [True] * (len(ids) - 1), "lengths": [len(ids)],
         "prompt": 1, "weight": 1.0} for at, ids in enumerate(IDS)
    ]  # fmt: skip


def values(objective: Any, backbone: Any) -> list[list[float]]:
    """Before each token but the first, and after the last: at every position of every row."""
    return [found.tolist() for found in Reader(backbone, 4096).outputs(ValueReader(objective), rows())]


def by_transformers(model: Any) -> list[list[float]]:
    """The score of each beginning of each row, read alone."""
    with torch.no_grad():
        return [[float(model.eval()(torch.tensor([ids[: n + 1]])).logits) for n in range(len(ids))] for ids in IDS]


def assert_alike(found: list[list[float]], expected: list[list[float]], tolerance: float = 1e-5) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=tolerance)
    assert len({one for row in found for one in row}) > len(IDS)


def judge(folder: Path, model: str, **keys: Any) -> Any:
    """A reward model, moved from where it began."""
    data = tiny.write_jsonl(folder / "pairs.jsonl", preference_rows(12))
    return luthier.tune({
        "task": "reward", "model": model, "data": data, "steps": 3, "learning_rate": 1e-2, "out": str(folder),
        "name": "judge", **keys,
    })  # fmt: skip


@pytest.mark.parametrize("packing", ["auto", "off"])
def test_it_begins_as_the_base_with_a_head_and_reads_as_transformers(
    packing: str, tiny_folder: Any, tmp_path: Path
) -> None:
    model = tiny_folder("llama")
    made = trial(model, tmp_path, packing=packing)
    prepared = made.prepared
    inner = prepared.objective.value.inner
    plain = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    assert all(torch.equal(p, inner.model.base_model.state_dict()[n]) for n, p in plain.base_model.state_dict().items())
    plain.score.weight.data = inner.model.score.weight.data.clone()
    found = values(prepared.objective, prepared.backbone)
    assert_alike(found, by_transformers(plain))
    nudge(made)  # the policy alone has moved away: what it writes is valued the same
    with torch.no_grad():
        for name, parameter in prepared.adaptation.parameters.items():
            if not name.startswith("value_model."):
                parameter.copy_(made.start[name])
    assert values(prepared.objective, prepared.backbone) == found


def test_a_layout_of_its_own_gives_the_same_values(tiny_folder: Any, tmp_path: Path) -> None:
    made = trial(tiny_folder("llama"), tmp_path)
    prepared = made.prepared
    inner = prepared.objective.value.inner
    assert prepared.backbone.layout == inner.layout == "packed"
    together = values(prepared.objective, prepared.backbone)
    one = made.fit(micro_tokens=10**6)
    inner.layout = "padded"
    inner.set_attention("sdpa")
    again = made.fit(micro_tokens=10**6)
    with torch.no_grad():
        for name, parameter in prepared.adaptation.parameters.items():
            parameter.copy_(made.start[name])
    assert_alike(values(prepared.objective, prepared.backbone), together)
    assert again.losses == pytest.approx(one.losses, abs=1e-5)
    for name, gradient in one.gradient.items():
        torch.testing.assert_close(again.gradient[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("keys", METHODS, ids=["lora", "full"])
def test_it_trains_whole_beside_what_the_method_trains(keys: dict[str, Any], tiny_folder: Any, tmp_path: Path) -> None:
    made = trial(tiny_folder("llama", attention_dropout=0.3), tmp_path, **keys)
    prepared = made.prepared
    inner, policy = prepared.objective.value.inner.model, prepared.backbone.model
    assert {id(p) for p in inner.parameters()}.isdisjoint(id(p) for p in policy.parameters())
    named = {n: p for n, p in prepared.adaptation.parameters.items() if n.startswith("value_model.")}
    assert {id(p) for p in named.values()} == {id(p) for p in inner.parameters()}
    kept = {n: p.clone() for n, p in policy.named_parameters() if n not in prepared.adaptation.parameters}
    fitted = made.fit(steps=2, learning_rate=1e-2)
    assert all(not torch.equal(value, made.start[name]) for name, value in fitted.weights.items())
    assert all(torch.equal(p, kept[n]) for n, p in policy.named_parameters() if n in kept)
    assert bool(kept) == (keys["method"] == "lora")
    first = fitted.records[0]
    assert first["ratio"] == pytest.approx(1, abs=1e-6)
    assert first["value_clip_fraction"] == 0
    assert not any(module.training for module in inner.modules()), "nothing is dropped, as of the policy"
    one, many = (made.fit(batch_size=8, micro_tokens=tokens) for tokens in (10**6, 64))
    assert_same_gradient(many.gradient, one.gradient)


@pytest.mark.parametrize("at", [1, 2])
def test_gone_on_from_a_checkpoint_it_is_the_same_bits(at: int, tiny_folder: Any, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"ppo": {"epochs": 2, "max_new_tokens": 12}}
    model, how = tiny_folder("llama"), {"batch_size": 4, "steps": 3, "learning_rate": 1e-2}
    whole = trial(model, tmp_path, **keys).fit(save_every=1, keep=9, **how)
    found, _ = latest(whole.folder, "hash", step=at)
    assert found is not None
    torch.manual_seed(77)
    resumed = trial(model, tmp_path, **keys).fit(resume=found, folder=tmp_path / "on", **how)
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())
    assert resumed.records[-1]["value_loss"] == whole.records[-1]["value_loss"]


def ppo_run(folder: Path, model: str, **keys: Any) -> Any:
    (folder / "mine.py").write_text(REWARDS)
    data = {"train": tiny.write_jsonl(folder / "rows.jsonl", asked_rows(8)), "eval": 0.25}
    return luthier.tune({
        "task": "reinforce", "model": model, "data": data, "steps": 2, "learning_rate": 1e-2, "ppo": SOME,
        "reinforce": {"rewards": [{"function": str(folder / "mine.py:mixed")}]}, "out": str(folder), "name": "ppo",
        **keys,
    })  # fmt: skip


@pytest.mark.parametrize("keys", METHODS, ids=["lora", "full"])
def test_it_is_saved_as_a_classifier_and_begins_another(keys: dict[str, Any], tiny_folder: Any, tmp_path: Path) -> None:
    model = tiny_folder("llama")
    run = ppo_run(tmp_path, model, **keys)
    plain = AutoModelForSequenceClassification.from_pretrained(run.folder / "final" / "value")
    assert plain.config.num_labels == 1
    opened = luthier.load(str(run.folder)).predictor
    found = values(opened.objective, opened.backbone)
    assert_alike(found, by_transformers(plain))
    total = sum(p.numel() for p in plain.parameters())
    assert {"role": "value", "tensors": len([*plain.parameters()]), "numbers": total} in run.result["trained"]
    assert run.result["parameters"] > 2 * (total - plain.config.hidden_size)
    again = trial(model, tmp_path, ppo={"value_from": str(run.folder)}, **keys)
    assert_alike(values(again.prepared.objective, again.prepared.backbone), found, 1e-6)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_begins_as_a_reward_model_of_another_base(method: str, tiny_folder: Any, tmp_path: Path) -> None:
    """A GPT-2 beside a Llama: the reward's own numbers, with what LoRA adapted folded in."""
    base = tiny_folder("gpt2")
    run = judge(tmp_path, base, method=method)
    final = run.folder / "final"
    if method == "full":
        plain = AutoModelForSequenceClassification.from_pretrained(final)
    else:
        begun = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=2)
        plain = PeftModel.from_pretrained(begun, final)
    made = trial(tiny_folder("llama"), tmp_path, ppo={"value_from": str(run.folder)})
    prepared = made.prepared
    assert_alike(values(prepared.objective, prepared.backbone), by_transformers(plain))
    rollout = source(made).rows(0, prepared.train.rows)
    assert all(len(row[VALUES]) == sum(row["supervised"]) for row in rollout)
    fitted = made.fit(steps=1, learning_rate=1e-2)
    assert all(not torch.equal(v, made.start[n]) for n, v in fitted.weights.items() if n.endswith("c_attn.weight"))


@pytest.mark.parametrize("value", ["adapter", "head"])
def test_it_begins_as_the_adapter_of_another_and_not_as_a_head(value: str, tiny_folder: Any, tmp_path: Path) -> None:
    """Blocks that are computed twice for their gradient change nothing of it."""
    model = tiny_folder("llama")
    run = ppo_run(tmp_path, model, method="lora", ppo=SOME | {"value": value})
    begun = {"value_from": str(run.folder)}
    if value == "head":
        data = tiny.write_jsonl(tmp_path / "rows.jsonl", asked_rows(8))
        findings, _ = luthier.check(task="reinforce", model=model, data=data, ppo=SOME | begun)
        (what,) = [one.what for one in findings if one.code == "reinforce.value"]
        assert "hidden states of its policy" in what
        return
    made, less = (trial(model, tmp_path, ppo=begun, gradient_checkpointing=again) for again in (False, True))
    plain = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, pad_token_id=2)
    plain = PeftModel.from_pretrained(plain, run.folder / "final" / "value")
    assert_alike(values(made.prepared.objective, made.prepared.backbone), by_transformers(plain))
    assert_same_gradient(less.fit().gradient, made.fit().gradient)


def test_other_tokens_are_refused(tiny_folder: Any, tmp_path: Path) -> None:
    run = judge(tmp_path, tiny_folder("llama"), method="full")
    other = tmp_path / "other"
    shutil.copytree(tiny_folder("llama"), other)
    told = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    words = told["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", asked_rows(8))

    def refused(model: str, **options: Any) -> list[str]:
        findings, _ = luthier.check(task="reinforce", model=model, data=data, ppo=SOME | options)
        wrong = [one for one in findings if one.severity == "error" and one.code == "reinforce.value"]
        return [one.what for one in wrong]

    (what,) = refused(str(other), value_from=str(run.folder))
    assert "2 of the policy's 329 tokens have another id" in what
    (what,) = refused(str(other), value_from=str(run.folder), value="adapter")
    assert "LoRA" in what
    assert refused(tiny_folder("llama"), value_from=str(run.folder)) == []


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_plan_counts_it(method: str, tiny_folder: Any, tmp_path: Path) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", asked_rows(8))
    run = judge(tmp_path, tiny_folder("gpt2"), method="lora")
    keys = {"task": "reinforce", "model": tiny_folder("llama"), "data": data, "method": method, "out": str(tmp_path)}
    head, model, other = (
        plan(**keys, ppo=SOME | told) for told in ({"value": "head"}, {}, {"value_from": str(run.folder)})
    )
    config = AutoModelForSequenceClassification.from_pretrained(tiny_folder("llama"), num_labels=1)
    whole = sum(p.numel() for p in config.parameters())
    head_alone = config.config.hidden_size
    assert model.model["trainable"] - head.model["trainable"] == whole - head_alone
    assert model.model["parameters"] - head.model["parameters"] == whole - head_alone
    assert model.parts["weights"] - head.parts["weights"] == pytest.approx(4 * (whole - head_alone), rel=0.05)
    assert other.model["trainable"] != model.model["trainable"]
    assert not any("could not be traced" in note for note in model.notes + other.notes)
