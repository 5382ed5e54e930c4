"""The engine's steps against a literal loop in plain torch (and PEFT) on the same rows: equal losses, equal weights.

The literal loop knows only what is in it: transformers' forward on one row at a time, cross-entropy on the answer's
tokens, one AdamW. Both sides see the same rows in each step; ours cuts them into several micro-batches.
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
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

import luthier
import tiny

STEPS, RATE, DECAY, CLIP = 5, 1e-3, 0.01, 1.0
NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
CHATS = [
    ("the red cat", "red"), ("a small old blue bird and the river", "the blue bird"), ("green", "it is green and new"),
    ("old house", "no"), ("the new dog and the old dog and the cat", "the dog"), ("tree", "the small tree"),
]  # fmt: skip
Row = tuple[list[int], Any]


def recipe(task: str, model: str, method: str, rows: list[dict[str, Any]], folder: Path, **more: Any) -> dict[str, Any]:
    """Every row in every step, so that the order of rows is out of play."""
    return {
        "task": task, "model": model, "method": method, "data": tiny.write_jsonl(folder / "rows.jsonl", rows),
        "out": str(folder / "runs"), "steps": STEPS, "batch_size": len(rows), "learning_rate": RATE, "warmup": 0,
        "schedule": "constant", "weight_decay": DECAY, "max_grad_norm": CLIP, "micro_tokens": 40, "matmul": "default",
        **more,
    }  # fmt: skip


def literal_loop(model: Any, rows: list[Row], loss_of: Callable[[Any, Row], tuple[Tensor, int]]) -> list[float]:
    """AdamW on the mean over all supervised units of all rows; matrices decay, vectors don't. Returns the losses."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    model.train()
    losses = []
    for _ in range(STEPS):
        found = [loss_of(model, row) for row in rows]
        loss = torch.stack([total for total, _ in found]).sum() / sum(count for _, count in found)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        losses.append(loss.item())
    return losses


def answer_loss(model: Any, row: Row) -> tuple[Tensor, int]:
    ids, first = row
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    return F.cross_entropy(logits[first - 1 : -1], torch.tensor(ids[first:]), reduction="sum"), len(ids) - first


def label_loss(model: Any, row: Row) -> tuple[Tensor, int]:
    ids, label = row
    return model(input_ids=torch.tensor([ids]), labels=torch.tensor([label])).loss, 1


def chat_rows(model: str) -> tuple[list[dict[str, Any]], list[Row]]:
    """As written in a file, and as ids with the place where the answer begins; it ends in ``<|im_end|>``."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    written, plain = [], []
    for question, answer in CHATS:
        prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(f"{prompt}{answer}<|im_end|>")["input_ids"]
        plain.append((ids, len(tokenizer(prompt)["input_ids"])))
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        written.append({"messages": turns})
    return written, plain


def losses_of(run: Any) -> list[float]:
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["kind"] == "train"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama-tied", "gemma2"])
def test_full_steps_of_a_writer(name: str, tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    model = tiny_folder(name, **NO_DROPOUT.get(name, {}))
    written, plain = chat_rows(model)
    run = luthier.tune(recipe("chat", model, "full", written, tmp_path))
    peer = transformers.AutoModelForCausalLM.from_pretrained(model)
    assert losses_of(run) == pytest.approx(literal_loop(peer, plain, answer_loss), rel=1e-6)
    assert_same_weights(load_file(run.folder / "final" / "model.safetensors"), peer.state_dict())


def test_full_steps_of_a_classifier(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    model = tiny_folder("bert", **NO_DROPOUT["bert"])
    written = [{"text": question, "label": "ab"[at % 2]} for at, (question, _) in enumerate(CHATS)]
    made = recipe("classify", model, "full", written, tmp_path)
    _, prepared = luthier.check(made)
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    peer.load_state_dict({name: tensor.clone() for name, tensor in prepared.backbone.model.state_dict().items()})
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    plain = [(tokenizer(row["text"])["input_ids"], "ab".index(row["label"])) for row in written]
    run = luthier.tune(made)
    assert losses_of(run) == pytest.approx(literal_loop(peer, plain, label_loss), rel=1e-6)
    assert_same_weights(load_file(run.folder / "final" / "model.safetensors"), peer.state_dict())


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_lora_steps_are_pefts(name: str, variant: str, tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """PEFT's own model, begun from the same A and B; PiSSA draws nothing, so it begins there of itself."""
    model = tiny_folder(name, **NO_DROPOUT.get(name, {}))
    written, plain = chat_rows(model)
    options = {"rank": 4, "alpha": 8.0, "targets": ["attention"]}
    options |= {"rslora": True} if variant == "rslora" else {"variant": variant}
    made = recipe("chat", model, "lora", written, tmp_path, lora=options)
    _, prepared = luthier.check(made)
    peer = peft_model(name, model, variant)
    start = {f"base_model.model.{key}": value for key, value in prepared.adaptation.parameters.items()}
    named = dict(peer.named_parameters())
    assert {key for key, value in named.items() if value.requires_grad} == start.keys()
    with torch.no_grad():
        for key, value in start.items():
            named[key].copy_(value)
    run = luthier.tune(made)
    assert losses_of(run) == pytest.approx(literal_loop(peer, plain, answer_loss), rel=1e-6)
    if variant != "pissa":  # which is saved as LoRA on the original weights
        saved = load_file(run.folder / "final" / "adapter_model.safetensors")
        peers = {key.replace(".default", ""): named[key] for key in start}
        assert_same_weights(saved, peers)


def peft_model(name: str, model: str, variant: str) -> Any:
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", use_rslora=variant == "rslora",
        use_dora=variant == "dora", init_lora_weights="pissa" if variant == "pissa" else True,
        target_modules=["attn.c_attn", "attn.c_proj"] if name == "gpt2" else ["q_proj", "k_proj", "v_proj", "o_proj"],
        fan_in_fan_out=name == "gpt2",
    )  # fmt: skip
    return get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(model), config)


def assert_same_weights(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Within 1e-5 of each other after five steps of 1e-3, save for numbers whose gradient is but rounding noise.

    Adam divides by the gradient's size, so noise moves a number by whole steps; such are keys' biases, which softmax
    ignores. They are counted, and are few.
    """
    compared = apart = 0
    for name, tensor in found.items():
        compared += tensor.numel()
        apart += int(((tensor - expected[name].detach()).abs() > 1e-5).sum())
    assert compared > 1000
    assert apart <= 0.005 * compared, f"{apart} of {compared}"
