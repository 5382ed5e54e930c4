"""Summaries of scientific abstracts (SciTLDR) beside transformers' Trainer, by a very small model of stories.

    python benchmarks/language_summarize.py      # both sides, one seed, and two summaries that no model writes

The model is far too small to summarize: it is here because both sides can be run anywhere in minutes, and because what
is compared is the way from rows to ROUGE. The peer lays its rows out as Luthier does (abstract, separator, summary, end
of text; the abstract loses its end where a row is too long), trains with Trainer and writes with `generate`, greedily.
Same rows, steps, batch and rate; ROUGE by rouge-score on the same test rows, of the best reference. "first sentence",
"title" are what an abstract's first sentence and its title score.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import SHARED, Cell, arguments, conduct

MODEL = SHARED / "models" / "stories260k-fp32"
TRAIN, TEST, BATCH, EPOCHS, RATE = 800, 100, 16, 2, 1e-3
LIMIT, NEW, SEPARATOR = 512, 64, "\n\nTL;DR:"

Row = dict[str, Any]


def data() -> tuple[list[Row], list[Row]]:
    sides = []
    for name, count in (("train", TRAIN), ("dev", TEST)):
        with gzip.open(SHARED / "data" / "scitldr" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            sides.append([json.loads(line) for line in file][:count])
    return sides[0], sides[1]


def scored(written: list[str], test: list[Row]) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(kinds, use_stemmer=True)
    found = [scorer.score_multi(row["summaries"], text) for row, text in zip(test, written, strict=True)]
    score = {kind: round(sum(one[kind].fmeasure for one in found) / len(found), 4) for kind in kinds}
    return score | {"empty": sum(not text.strip() for text in written)}


def luthier_side(train: list[Row], test: list[Row], folder: Path, seed: int) -> dict[str, Any]:
    import luthier

    path = folder / "train.jsonl"
    rows = [{"document": row["document"], "summaries": row["summaries"]} for row in train]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = luthier.tune(
        task="summarize", model=str(MODEL), method="full", data={"train": str(path), "eval": 0}, out=str(folder),
        batch_size=BATCH, epochs=EPOCHS, learning_rate=RATE, warmup=0, max_length=LIMIT, seed=seed, final="last",
        summarize={"separator": SEPARATOR, "max_new_tokens": NEW},
    )  # fmt: skip
    answers = run.predict([row["document"] for row in test])
    return {"steps": run.result["steps"], "score": scored([answer["text"] for answer in answers], test)}


def laid_out(tokenizer: Any, document: str, summary: str | None) -> tuple[list[int], list[int]]:
    """Ids of the prompt and of the summary; the prompt leaves room for what is to be written."""
    ends = [] if summary is None else tokenizer(f" {summary.strip()}", add_special_tokens=False)["input_ids"] + [
        tokenizer.eos_token_id
    ]  # fmt: skip
    separator = tokenizer(SEPARATOR, add_special_tokens=False)["input_ids"]
    room = LIMIT - len(separator) - (len(ends) or NEW)
    return tokenizer(document.strip(), truncation=True, max_length=room)["input_ids"] + separator, ends


def peer_side(train: list[Row], test: list[Row], folder: Path, seed: int) -> dict[str, Any]:
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    rows = []
    for row in train:
        prompt, summary = laid_out(tokenizer, row["document"], row["summaries"][0])
        rows.append({"input_ids": prompt + summary, "labels": [-100] * len(prompt) + summary})
    settings = arguments(
        str(folder), seed=seed, learning_rate=RATE, num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH
    )
    # The collator pads ids, mask and labels alike.
    trainer = Trainer(
        model=model, args=TrainingArguments(**settings), train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )  # fmt: skip
    trainer.train()
    model.eval()
    written = []
    for row in test:
        ids = torch.tensor([laid_out(tokenizer, row["document"], None)[0]])
        grown = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        written.append(tokenizer.decode(grown[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return {"steps": trainer.state.global_step, "score": scored(written, test)}


def measure(cell: Cell) -> dict[str, Any]:
    train, test = data()
    told = {"train_rows": len(train), "test_rows": len(test)}
    if cell["side"] in ("first sentence", "title"):
        texts = [row["title"] if cell["side"] == "title" else row["document"].split(". ")[0] for row in test]
        return told | {"train_rows": 0, "steps": 0, "score": scored(texts, test)}
    with tempfile.TemporaryDirectory() as folder:
        side = luthier_side if cell["side"] == "luthier" else peer_side
        return told | side(train, test, Path(folder), cell["seed"])


if __name__ == "__main__":
    cell: Cell = {"task": "summarize", "data": "scitldr", "model": "stories260k-fp32", "method": "full", "seed": 0}
    none = {**cell, "model": "none", "method": "none"}
    conduct(
        "language_summarize",
        [{**cell, "side": side} for side in ("luthier", "transformers")]
        + [{**none, "side": side} for side in ("first sentence", "title")],
        measure,
    )
