"""The peer's side of the quality benchmark: transformers.Trainer with PEFT, and scikit-learn; and what a cell is.

Axes: K rows of a batch, L longest row.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
STORIES = SHARED / "models" / "stories260k-fp32"
BATCH, WEIGHT_DECAY = 32, 0.01


@dataclass(frozen=True)
class Cell:
    """One measurement: ``side`` is "luthier" or "peer"; ``held_out`` is "test", or "train" for rows split off it."""

    part: str
    data: str
    method: str
    side: str
    seed: int = 0
    rate: float = 0.0
    epochs: float = 3
    held_out: str = "test"

    @property
    def key(self) -> str:
        parts = [self.data, self.method, self.side, f"seed {self.seed}"]
        return " / ".join(parts if not self.rate else [*parts, f"rate {self.rate:g}"])


def files(data: str) -> tuple[str, str]:
    return tuple(str(SHARED / "data" / data / f"{side}.jsonl.gz") for side in ("train", "test"))  # type: ignore


def read_texts(data: str) -> tuple[list[str], list[int], list[str], list[int]]:
    """Texts and class ids of both sides; rows of train that are also in test are left out, as Luthier leaves them."""
    from luthier.data.split import content_key
    from luthier.types import INLINE, Example

    sides = []
    for path in files(data):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            sides.append([json.loads(line) for line in file])
    train, test = sides
    held_out = {content_key(Example(INLINE, text=row["text"])) for row in test}
    train = [row for row in train if content_key(Example(INLINE, text=row["text"])) not in held_out]
    ids = {label: i for i, label in enumerate(sorted({row["label"] for row in train}))}
    pairs = [([row["text"] for row in rows], [ids[row["label"]] for row in rows]) for rows in (train, test)]
    return *pairs[0], *pairs[1]


def starter() -> str:
    from luthier.models.locate import locate

    path, findings = locate("starter:minilm", Path.cwd())
    if findings:
        raise SystemExit("\n".join(map(str, findings)))
    return path


def peer_features(cell: Cell) -> dict[str, Any]:
    """Logistic regression on the mean of transformers' last hidden states, the rows padded as the tokenizer pads."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(starter()), AutoModel.from_pretrained(starter()).eval()
    texts, targets, test_texts, test_targets = read_texts(cell.data)

    @torch.no_grad()
    def vectors(texts: list[str]) -> Any:
        parts = []
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(texts[start : start + BATCH], padding=True, truncation=True, return_tensors="pt")
            mask_KL1 = batch["attention_mask"][..., None]
            parts.append((model(**batch).last_hidden_state * mask_KL1).sum(1) / mask_KL1.sum(1))
        return torch.cat(parts).double().numpy()

    began = time.perf_counter()
    classifier = LogisticRegression(max_iter=2000).fit(vectors(texts), targets)
    seconds = time.perf_counter() - began
    accuracy = float(classifier.score(vectors(test_texts), test_targets))
    return {
        "accuracy": accuracy, "train_s": round(seconds, 2), "train_rows": len(texts), "test_rows": len(test_texts),
        "steps": 0, "trainable": 0,
    }  # fmt: skip


def peer_classifier(cell: Cell) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer

    from luthier.engine.precision import choose_matmul

    texts, targets, test_texts, test_targets = read_texts(cell.data)
    tokenizer = AutoTokenizer.from_pretrained(starter())

    def encoded(texts: list[str], targets: list[int]) -> list[dict[str, Any]]:
        ids = tokenizer(texts, truncation=True)["input_ids"]
        return [{"input_ids": row, "labels": target} for row, target in zip(ids, targets, strict=True)]

    torch.manual_seed(cell.seed)
    # The peer gets the same matmul library, and few shapes for it: only results are compared here, in fp32 either way.
    torch.set_float32_matmul_precision(
        "medium" if choose_matmul("auto", torch.device("cpu"))[0] == "onednn" else "highest"
    )
    model = AutoModelForSequenceClassification.from_pretrained(
        starter(), num_labels=max(targets) + 1, attn_implementation="eager"
    )
    if cell.method == "lora":
        model = with_lora(model, [n for n, _ in linears(model) if ".encoder.layer." in n], "SEQ_CLS")
    train = encoded(texts, targets)
    arguments = training_arguments(
        cell, learning_rate=cell.rate, num_train_epochs=cell.epochs, per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
    )  # fmt: skip
    collate = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=16)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=train, processing_class=tokenizer, data_collator=collate
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    predicted = trainer.predict(encoded(test_texts, test_targets)).predictions.argmax(-1)
    return {
        "accuracy": float((predicted == test_targets).mean()), "steps": trainer.state.global_step,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad), "train_rows": len(train),
        "test_rows": len(test_texts), "train_s": round(seconds, 2),
    }  # fmt: skip


def linears(model: Any) -> list[tuple[str, Any]]:
    import torch

    return [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def with_lora(model: Any, targets: list[str], task_type: str) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=targets, task_type=task_type)
    return get_peft_model(model, config)


def training_arguments(cell: Cell, **settings: Any) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=tempfile.mkdtemp(), use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
        logging_steps=50, lr_scheduler_type="linear", warmup_steps=0, weight_decay=WEIGHT_DECAY, max_grad_norm=1.0,
        seed=cell.seed, **settings,
    )  # fmt: skip


def measure_sides(script: str, result: Path, data: Sequence[str], sides: Sequence[str], seeds: int) -> None:
    """What is missing of a script's results, each side in a process of its own (``--one DATA SIDE SEED``), one thread;
    kept after each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    for seed, name, side in ((seed, name, side) for seed in range(seeds) for name in data for side in sides):
        kept = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {"made": {}, "rows": []}
        if any((row["data"], row["side"], row["seed"]) == (name, side, seed) for row in kept["rows"]):
            continue
        command = [sys.executable, script, "--one", name, side, str(seed)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} {side} failed:\n{done.stderr[-3000:]}")
        kept["made"] = {package: version(package) for package in ("luthier", "torch", "transformers")}
        kept["rows"].append(json.loads(done.stdout.strip().splitlines()[-1]))
        result.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def answer_loss(model: Any, rows: list[dict[str, Any]], batch_size: int) -> float:
    """Nats per supervised token, of transformers' own logits on padded rows."""
    import torch

    model.eval()
    total = count = 0.0
    with torch.no_grad():
        for first in range(0, len(rows), batch_size):
            batch = padded(rows[first : first + batch_size])
            logits_KLV = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
            labels_KL = batch["labels"][:, 1:]
            total += float(torch.nn.functional.cross_entropy(logits_KLV.transpose(1, 2), labels_KL, reduction="sum"))
            count += int((labels_KL != -100).sum())
    return total / count


def peer_stream(cell: Cell, batches: list[list[dict[str, Any]]]) -> tuple[list[float], float]:
    """transformers.Trainer's loss of each step, fed ``batches``."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer

    model = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32)
    if cell.method == "lora":
        torch.manual_seed(cell.seed)
        model = with_lora(model, [name for name, _ in linears(model) if ".layers." in name], "CAUSAL_LM")
    losses: list[float] = []

    class Fed(Trainer):
        def get_train_dataloader(self) -> Any:
            return [padded(batch) for batch in batches]

        def training_step(self, *given: Any, **named: Any) -> Any:
            loss = super().training_step(*given, **named)
            losses.append(float(loss))
            return loss

    trainer = Fed(model=model, args=training_arguments(cell, learning_rate=cell.rate, max_steps=len(batches)))
    began = time.perf_counter()
    trainer.train()
    return losses, time.perf_counter() - began


def padded(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Padded ids, mask and labels; the first token of a row is no target."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    shape = (len(rows), longest)
    ids, mask, labels = torch.zeros(shape).long(), torch.zeros(shape).long(), torch.full(shape, -100)
    for k, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[k, :length], mask[k, :length] = torch.tensor(row["input_ids"]), 1
        supervised = torch.tensor([False, *row["supervised"][1:]])
        labels[k, :length][supervised] = ids[k, :length][supervised]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
