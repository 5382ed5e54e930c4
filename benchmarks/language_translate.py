"""SCAN, commands in English and the actions that each stands for, beside transformers' Seq2SeqTrainer.

    python benchmarks/language_translate.py     # both sides, one seed; needs sacrebleu

A small T5 with random weights and a vocabulary of SCAN's own words learns all of it from the rows: what is compared is
the way from rows to BLEU, chrF and exact match, on the same initial weights, rows, steps, batch and rate. The split is
at random, the easy one of SCAN (Lake and Baroni 2018); the peer is the logic of the example `run_translation.py`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import SHARED, Cell, arguments, conduct
from small_t5 import small_t5

TRAIN, TEST, BATCH, EPOCHS, RATE, NEW = 6000, 300, 32, 6, 2e-3, 56

Row = dict[str, str]


def data() -> tuple[list[Row], list[Row]]:
    with gzip.open(SHARED / "data" / "scan" / "commands.jsonl.gz", "rt", encoding="utf-8") as file:
        found = {row["command"]: row["actions"] for row in map(json.loads, file)}
    rows = [{"source": command, "target": actions} for command, actions in found.items()]
    rows.sort(key=lambda row: hashlib.sha256(row["source"].encode()).digest())
    return rows[:TRAIN], rows[TRAIN : TRAIN + TEST]


def model(folder: Path, rows: list[Row], seed: int) -> str:
    words = sorted({word for row in rows for text in row.values() for word in text.split()})
    return small_t5(folder, words, seed, longest=64, feed_forward=256, dropout=0.0, signs=False)


def scored(written: list[str], test: list[Row]) -> dict[str, float]:
    from sacrebleu.metrics import BLEU, CHRF

    references = [[row["target"] for row in test]]
    exact = sum(text == row["target"] for text, row in zip(written, test, strict=True)) / len(test)
    bleu, chrf = BLEU().corpus_score(written, references), CHRF().corpus_score(written, references)
    return {"bleu": round(bleu.score, 2), "chrf": round(chrf.score, 2), "exact_match": round(exact, 4)}


def luthier_side(path: str, train: list[Row], test: list[Row], folder: Path, seed: int) -> dict[str, Any]:
    import luthier

    rows = folder / "train.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in train), encoding="utf-8")
    run = luthier.tune(
        task="translate", model=path, method="full", data={"train": str(rows), "eval": 0}, out=str(folder / "runs"),
        batch_size=BATCH, epochs=EPOCHS, learning_rate=RATE, warmup=0, seed=seed, final="last",
        translate={"max_new_tokens": NEW},
    )  # fmt: skip
    answers = run.predict([row["source"] for row in test])
    return {"steps": run.result["steps"], "score": scored([answer["text"] for answer in answers], test)}


def peer_side(path: str, train: list[Row], test: list[Row], folder: Path, seed: int) -> dict[str, Any]:
    from transformers import (
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(path)
    network = AutoModelForSeq2SeqLM.from_pretrained(path)
    rows = [
        {"input_ids": tokenizer(row["source"])["input_ids"], "labels": tokenizer(row["target"])["input_ids"]}
        for row in train
    ]
    settings = arguments(
        str(folder), seed=seed, learning_rate=RATE, num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH,
        predict_with_generate=True, per_device_eval_batch_size=8, generation_max_length=NEW,
    )  # fmt: skip
    trainer = Seq2SeqTrainer(
        model=network, args=Seq2SeqTrainingArguments(**settings), train_dataset=rows, processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, network),
    )  # fmt: skip
    trainer.train()
    grown = trainer.predict([{"input_ids": tokenizer(row["source"])["input_ids"], "labels": [1]} for row in test])
    ids = [[token for token in row if token >= 0] for row in grown.predictions.tolist()]
    written = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    return {"steps": trainer.state.global_step, "score": scored(written, test)}


def measure(cell: Cell) -> dict[str, Any]:
    train, test = data()
    with tempfile.TemporaryDirectory() as folder:
        path = model(Path(folder) / "model", train + test, cell["seed"])
        side = luthier_side if cell["side"] == "luthier" else peer_side
        told = side(path, train, test, Path(folder), cell["seed"])
    return told | {"train_rows": len(train), "test_rows": len(test)}


if __name__ == "__main__":
    conduct(
        "language_translate",
        [
            {"task": "translate", "data": "scan", "model": "t5 from its config", "method": "full", "side": side,
             "seed": 0}
            for side in ("luthier", "transformers")
        ],
        measure,
    )  # fmt: skip
