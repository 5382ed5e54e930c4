"""AdaLoRA against PEFT's own model, penalty and `update_and_allocate` in a literal loop: the same ranks and numbers.

Both begin in the same A, B and E and see all rows in each step. PEFT opens what is saved, with the same logits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from peft import AdaLoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

import luthier
import tiny

STEPS, RATE = 36, 5e-3
OPTIONS = {"variant": "adalora", "rank": 3, "initial_rank": 6, "alpha": 8.0, "tinit": 4, "tfinal": 10, "deltaT": 3}
TARGETS = {"gpt2": ["attn.c_attn", "attn.c_proj"], "llama": ["q_proj", "k_proj", "v_proj", "o_proj"]}
QUIET = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}, "llama": {}}
CHATS = [
    ("the red cat", "red"), ("a small old blue bird and the river", "the blue bird"), ("green", "it is green and new"),
    ("old house", "no"), ("the new dog and the old dog and the cat", "the dog"), ("tree", "the small tree"),
]  # fmt: skip


def rows_of(model: str) -> tuple[list[dict[str, Any]], list[tuple[list[int], int]]]:
    """As written in a file, and as (ids, where the answer begins)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    written, plain = [], []
    for question, answer in CHATS:
        prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(f"{prompt}{answer}<|im_end|>")["input_ids"]
        plain.append((ids, len(tokenizer(prompt)["input_ids"])))
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        written.append({"messages": turns})
    return written, plain


def recipe(name: str, model: str, written: list[dict[str, Any]], folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "task": "chat", "model": model, "method": "lora", "lora": OPTIONS | {"targets": ["attention"]},
        "data": tiny.write_jsonl(folder / "rows.jsonl", written), "out": str(folder / "runs"), "steps": STEPS,
        "batch_size": len(written), "learning_rate": RATE, "warmup": 0, "schedule": "constant", "weight_decay": 0.0,
        "max_grad_norm": 1.0, "micro_tokens": 40, "matmul": "default", **more,
    }  # fmt: skip


def peer_of(name: str, model: str) -> Any:
    config = AdaLoraConfig(
        init_r=6, target_r=3, lora_alpha=8, tinit=4, tfinal=10, deltaT=3, total_step=STEPS, task_type="CAUSAL_LM",
        orth_reg_weight=0.5, target_modules=TARGETS[name], fan_in_fan_out=name == "gpt2",
    )  # fmt: skip
    return get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(model), config)


def orthogonal_loss(peer: Any) -> Tensor:
    """PEFT's own: what its forward adds to a loss that the model gives."""

    class Zero:
        loss = torch.zeros(())

    inner, peer.base_model.model.forward = peer.base_model.model.forward, lambda: Zero
    try:
        Zero.loss = torch.zeros(())
        return peer.base_model.forward().loss
    finally:
        peer.base_model.model.forward = inner


def literal_loop(peer: Any, rows: list[tuple[list[int], int]]) -> tuple[list[float], list[int]]:
    """Losses, and how many triplets PEFT has kept after each step."""
    trained = [p for p in peer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    count = sum(len(ids) - first for ids, first in rows)
    losses, kept = [], []
    peer.train()
    for step in range(1, STEPS + 1):
        found = []
        for ids, first in rows:
            logits = peer(input_ids=torch.tensor([ids])).logits[0]
            found.append(F.cross_entropy(logits[first - 1 : -1], torch.tensor(ids[first:]), reduction="sum"))
        loss = torch.stack(found).sum() / count
        losses.append(loss.item())
        (loss + orthogonal_loss(peer)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        peer.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        kept.append(sum(int(p.count_nonzero()) for n, p in peer.named_parameters() if "lora_E" in n))
    return losses, kept


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_ranks_and_weights_are_pefts(name: str, tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """36 steps with 4 before and 10 after the ranks fall; the tenth step's ranks and the last one's are compared."""
    model = tiny_folder(name, **QUIET[name])
    written, plain = rows_of(model)
    made = recipe(name, model, written, tmp_path)
    _, prepared = luthier.check(made)
    peer = peer_of(name, model)
    start = {f"base_model.model.{key}": value for key, value in prepared.adaptation.parameters.items()}
    named = dict(peer.named_parameters())
    assert {key for key, value in named.items() if value.requires_grad} == start.keys()
    with torch.no_grad():
        for key, value in start.items():
            named[key].copy_(value)
    run = luthier.tune(made)
    losses, kept = literal_loop(peer, plain)
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [one["loss"] for one in records if one["kind"] == "train"] == pytest.approx(losses, rel=1e-5)
    layers = len(start) // 3
    assert kept[3] == 6 * layers  # nothing falls before `tinit`
    assert 3 * layers < kept[11] < 6 * layers  # on the way down
    assert kept[-1] == 3 * layers
    pattern = {key.replace(".default", ""): value for key, value in pattern_of(peer).items()}
    assert run.result["ranks"] == {key.removesuffix(".lora_E"): sum(value) for key, value in pattern.items()}
    assert len(set(run.result["ranks"].values())) > 1  # the budget went to some more than to others
    config = json.loads((run.folder / "final" / "adapter_config.json").read_text())
    assert config["rank_pattern"] == pattern
    saved = load_file(run.folder / "final" / "adapter_model.safetensors")
    for key in start:
        kept_R = torch.tensor(pattern[key.rpartition(".lora_")[0].removeprefix("base_model.model.") + ".lora_E"])
        expected = named[key].detach()
        expected = expected[:, kept_R] if ".lora_B." in key else expected[kept_R]
        torch.testing.assert_close(saved[key.replace(".default", "")], expected, atol=1e-6, rtol=0)


def pattern_of(peer: Any) -> dict[str, list[bool]]:
    return peer.base_model.peft_config["default"].rank_pattern


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_peft_opens_it_with_the_same_logits(name: str, tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """At its budget, and before any rank has fallen."""
    model = tiny_folder(name, **QUIET[name])
    written, plain = rows_of(model)
    ids = plain[1][0]
    for at, steps in enumerate((STEPS, 8)):
        options = OPTIONS | {"targets": ["attention"], **({} if at == 0 else {"tinit": 6, "tfinal": 0, "deltaT": 100})}
        run = luthier.tune(recipe(name, model, written, tmp_path / str(at), lora=options, steps=steps))
        base = transformers.AutoModelForCausalLM.from_pretrained(model)
        theirs = PeftModel.from_pretrained(base, str(run.folder / "final")).eval()
        with torch.no_grad():
            expected = theirs(input_ids=torch.tensor([ids])).logits[0]
        predictor = luthier.load(run.folder).predictor
        batch = predictor.objective.collate(
            [{"row": 0, "input_ids": ids, "supervised": [True] * len(ids), "weight": 1.0}]
        )
        with torch.no_grad():
            found = predictor.backbone.token_logits(predictor.backbone.hidden(batch))[: len(ids)]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        merged = transformers.AutoModelForCausalLM.from_pretrained(
            run.export("merged", tmp_path / f"merged-{at}")["folder"]
        )
        with torch.no_grad():
            torch.testing.assert_close(merged(input_ids=torch.tensor([ids])).logits[0], expected, atol=1e-4, rtol=0)
