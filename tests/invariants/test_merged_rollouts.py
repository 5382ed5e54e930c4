"""LoRA in the weights while answers are drawn: the same answers, and afterwards the very numbers that were there."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import nudge, preference_rows, reinforced, source
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

import luthier
import tiny
from luthier.methods.injected import merged
from luthier.objectives.online import OLD
from luthier.plan.plan import _of_answers

trial = partial(reinforced, "ppo", {"group_size": 2, "max_new_tokens": 6, "epochs": 1})
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {}, "rslora": {"rslora": True}, "dora": {"variant": "dora"}, "pissa": {"variant": "pissa"},
    "adalora": {"variant": "adalora", "tinit": 0, "tfinal": 0},
}  # fmt: skip


def moved(made: Any) -> None:
    """Its adapters are no longer nothing, as after some steps."""
    nudge(made)
    with torch.no_grad():
        for name, parameter in made.prepared.adaptation.parameters.items():
            parameter.copy_(made.start[name])


def read(made: Any) -> torch.Tensor:
    """The logits of sixteen tokens."""
    backbone = made.prepared.backbone
    with torch.no_grad(), backbone.attention("sdpa"):
        logits: torch.Tensor = backbone.model(input_ids=torch.arange(8, 24)[None]).logits
    return logits


def held(model: nn.Module) -> dict[str, Any]:
    """Every number of a model, where it lies, and which of PEFT's adapters it takes for merged."""
    return {name: (tensor.detach().clone(), tensor.data_ptr()) for name, tensor in model.state_dict().items()}


def assert_as_before(model: nn.Module, before: dict[str, Any]) -> None:
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, (tensor, place) in before.items():
        assert torch.equal(after[name], tensor), name
        assert after[name].data_ptr() == place, name
    for module in model.modules():
        assert not vars(module).get("merged_adapters"), "PEFT would take the adapter for merged"
        assert not vars(module).get("_caches")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_merged_it_reads_the_same_and_the_very_weights_come_back(
    name: str, variant: str, tiny_folder: Any, tmp_path: Path
) -> None:
    made = trial(
        tiny_folder(name), tmp_path, ppo={"value": "head", "beta": 0}, steps=10, lora={"rank": 2, **VARIANTS[variant]}
    )
    moved(made)
    model = made.prepared.backbone.model.eval()
    before = held(model)
    apart = read(made)
    with merged(model) as layers:
        together = read(made)
        now = model.state_dict()
        changed = [one for one, (tensor, _) in before.items() if not torch.equal(now[one], tensor)]
    again = read(made)
    assert len(changed) == len(layers) > 4
    assert all(one.endswith("base_layer.weight") for one in changed)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
    assert torch.equal(again, apart)
    assert_as_before(model, before)


def test_a_failure_while_it_is_merged_puts_the_weights_back(tiny_folder: Any, tmp_path: Path) -> None:
    made = trial(tiny_folder("llama"), tmp_path)
    moved(made)
    model = made.prepared.backbone.model
    before = held(model)
    with pytest.raises(KeyboardInterrupt), merged(model):
        raise KeyboardInterrupt
    assert_as_before(model, before)


def test_other_adapters_in_the_same_weights_are_left_alone(tiny_folder: Any, tmp_path: Path) -> None:
    """Policy, value and reward model in one base: after a round each number is the one that it was, the reward reads
    the same bits, and the reference, the adapter switched off, is the base."""
    model = tiny_folder("llama")
    reward = luthier.tune({
        "task": "reward", "model": model, "data": tiny.write_jsonl(tmp_path / "pairs.jsonl", preference_rows(12)),
        "method": "lora", "lora": {"rank": 3}, "steps": 4, "learning_rate": 1e-2, "out": str(tmp_path), "name": "judge",
    })  # fmt: skip
    name = str(reward.folder)
    made = trial(model, tmp_path, rewards=[{"model": name}], ppo={"value_from": name, "beta": 0.3})
    rollouts, rows = source(made), made.prepared.train.rows
    with made.prepared.adaptation.base():
        base = read(made)
    moved(made)
    asked = [[{"role": "user", "content": word}] for word in tiny.WORDS[:4]]
    scored = made.prepared.task.scorers[name](asked, tiny.WORDS[4:8], [""] * 4)
    before = held(made.prepared.backbone.model)
    rollouts.rows(0, rows)
    assert_as_before(made.prepared.backbone.model, before)
    assert made.prepared.task.scorers[name](asked, tiny.WORDS[4:8], [""] * 4) == scored
    with made.prepared.adaptation.base():
        assert torch.equal(read(made), base)


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_a_round_merged_draws_what_it_draws_apart(variant: str, tiny_folder: Any, tmp_path: Path) -> None:
    """On these numbers no token lies between the two roundings; and what is learned is read apart in either way."""
    found = []
    for merge in ("on", "off"):
        made = trial(tiny_folder("llama"), tmp_path, ppo={"merge": merge}, lora={"rank": 2, "variant": variant})
        moved(made)
        found.append(source(made).rows(0, made.prepared.train.rows))
    for one, other in zip(*found, strict=True):
        assert one["input_ids"] == other["input_ids"]
        assert torch.equal(one[OLD], other[OLD])


def test_weights_in_half_precision_are_merged_where_that_is_asked_for(tiny_folder: Any, tmp_path: Path) -> None:
    """An update below the last place of bf16 would vanish in its weights, so that it is not done unasked."""
    made = trial(tiny_folder("llama"), tmp_path)
    model = made.prepared.backbone.model
    model.model.layers[0].self_attn.q_proj.base_layer.to(torch.bfloat16)
    with merged(model) as some:
        pass
    with merged(model, (torch.float32, torch.bfloat16)) as every:
        pass
    with merged(model, ()) as none:
        pass
    assert (len(some), len(every), len(none)) == (13, 14, 0)


def test_a_weight_that_something_else_reads_is_not_touched(tiny_folder: Any) -> None:
    """LoRA on a head that is the embedding: merged there, the embedding would be another one."""
    model = tiny.build("llama-tied")
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj", "lm_head"], init_lora_weights=False), model)
    with merged(model) as layers:
        assert model.lm_head not in layers
    assert [type(layer).__name__ for layer in layers] == ["Linear"] * 2


def test_a_plan_tells_what_the_copy_takes(tiny_folder: Any, tmp_path: Path) -> None:
    """Two layers of width 32, inner width 48, one key of 16: 2 (32² · 2 + 32 · 16 · 2 + 3 · 32 · 48) fp32 numbers."""
    told = []
    for merge in ("auto", "off"):
        made = trial(tiny_folder("llama"), tmp_path, ppo={"merge": merge})
        told.append(_of_answers(made.prepared.objective.options, made.prepared.backbone.model))
    assert f"{2 * (2 * 32**2 + 2 * 32 * 16 + 3 * 32 * 48) * 4 / 2**20:.1f} MB" in told[0][-1]
    assert len(told[0]) == len(told[1]) + 1
