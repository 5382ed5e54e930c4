"""Answers in a context beside transformers' example `run_qa.py`: XQuAD's English questions.

    python benchmarks/language_answer.py     # three sides, three seeds

Every fifth article is tested on, so that no article, and no paragraph, is on both sides: 732 questions to train on, 190
to test. `full`, fp32, windows of 256 tokens that overlap by a quarter, answers of at most 30 tokens.

The peer follows the example: windows by the tokenizer's stride with offsets back to characters, a window that does not
hold the answer points at its first token, Trainer, and the best of the 20 best starts and ends of all windows of a
question. Batches are padded to their longest row (the example pads to the longest possible one, if it isn't told
otherwise). It gives a BERT its segment ids. Luthier leaves them at 0, which is all that the starter encoder was tuned
with; the peer's second side has them at 0, too. Same rows, steps, batch, rate and schedule; answers of all sides are
scored by SQuAD's rules, which a test holds against recorded scores of torchmetrics.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import HERE, SHARED, Cell, arguments, conduct, starter

KEPT = Path(os.environ.get("LUTHIER_BENCH", HERE / "results" / "language_answer_runs"))
BATCH, STEPS = 16, 92  # two epochs
MAX_LENGTH, STRIDE, LONGEST, BEST = 256, 0.25, 30, 20
NO_SEGMENTS = "transformers, segment ids 0"
Rows = list[dict[str, Any]]


def data() -> tuple[Rows, Rows]:
    """Train and test, by article."""
    with gzip.open(SHARED / "data" / "xquad_en" / "qa.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row for row in rows if row["article"] % 5], [row for row in rows if row["article"] % 5 == 0]


def write(path: Path, rows: Rows) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def scored(given: list[str], test: Rows) -> dict[str, float]:
    from luthier.evaluate.answers import plain

    found = plain(given, [row["answers"]["text"] for row in test])
    return {name: round(value, 4) for name, value in found.items()}


def tuned(cell: Cell, train: Rows, folder: Path, **more: Any) -> Any:
    """A run of Luthier; a finished one of the same recipe is opened."""
    import luthier

    settings: dict[str, Any] = {"answer": {"stride": STRIDE, "max_tokens": LONGEST}} | more
    told = {"train": write(folder / "train.jsonl", train), "eval": 0} | settings.pop("data", {})
    return luthier.tune(
        task="answer", model="starter:minilm", method=cell["method"], out=str(folder), seed=cell["seed"], data=told,
        batch_size=BATCH, steps=STEPS, warmup=0, learning_rate=cell["rate"], max_length=MAX_LENGTH, final="last",
        precision="fp32", **settings,
    )  # fmt: skip


def reader(cell: Cell) -> Any:
    """The run that is measured here, kept for `language_answer_retrieved.py`."""
    return tuned(cell, data()[0], KEPT / f"reader-{cell['method']}-{cell['rate']}-{cell['seed']}")


def luthier_side(cell: Cell, train: Rows, test: Rows, folder: Path) -> dict[str, Any]:
    shutil.rmtree(KEPT / f"reader-{cell['method']}-{cell['rate']}-{cell['seed']}", ignore_errors=True)  # all its time
    run = reader(cell)
    answers = run.predict([{key: row[key] for key in ("question", "context")} for row in test])
    return {"steps": run.result["steps"], "score": scored([answer["answer"] for answer in answers], test)}


def peer_side(cell: Cell, train: Rows, test: Rows, folder: Path) -> dict[str, Any]:
    import torch
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(starter())
    if cell["side"] == NO_SEGMENTS:
        tokenizer.model_input_names = ["input_ids", "attention_mask"]  # the model's default is 0
    torch.manual_seed(cell["seed"])
    model = AutoModelForQuestionAnswering.from_pretrained(starter())
    settings = arguments(
        str(folder), seed=cell["seed"], learning_rate=cell["rate"], max_steps=STEPS,
        per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=TrainingArguments(**settings), data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=[labelled(one, row) for row in train for one in windows(tokenizer, row)],
    )  # fmt: skip
    trainer.train()
    cut = [(at, one) for at, row in enumerate(test) for one in windows(tokenizer, row)]
    shown = [{key: one[key] for key in tokenizer.model_input_names} for _, one in cut]
    starts, ends = trainer.predict(shown).predictions  # type: ignore[arg-type]
    answers = []
    for at, row in enumerate(test):
        of_one = [(one["places"], starts[n], ends[n]) for n, (asked, one) in enumerate(cut) if asked == at]
        answers.append(best(of_one, row["context"]))
    return {"steps": trainer.state.global_step, "score": scored(answers, test)}


def windows(tokenizer: Any, row: dict[str, Any]) -> Rows:
    """A row as it is cut, each window with the characters of the context that its tokens are."""
    question = row["question"].lstrip()
    room = MAX_LENGTH - len(tokenizer(question)["input_ids"]) - 2
    made = tokenizer(
        question, row["context"], truncation="only_second", max_length=MAX_LENGTH, stride=int(STRIDE * room),
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    found = []
    for at, places in enumerate(made["offset_mapping"]):
        sides = made.sequence_ids(at)
        inside = [place if side == 1 else None for place, side in zip(places, sides, strict=True)]
        fed = {key: made[key][at] for key in tokenizer.model_input_names}
        found.append({**fed, "places": inside})
    return found


def labelled(window: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """With the tokens of the answer; those of the first token where it does not lie in the window."""
    first = row["answers"]["answer_start"][0]
    last = first + len(row["answers"]["text"][0])
    inside = [(at, place) for at, place in enumerate(window["places"]) if place is not None]
    start = end = 0
    if inside and inside[0][1][0] <= first and last <= inside[-1][1][1]:
        start = max(at for at, place in inside if place[0] <= first)
        end = min(at for at, place in inside if place[1] >= last)
    fed = {key: value for key, value in window.items() if key != "places"}
    return {**fed, "start_positions": start, "end_positions": end}


def best(of_one: list[tuple[list[Any], Any, Any]], context: str) -> str:
    """The answer to one question from the logits of its windows."""
    import numpy as np

    found: list[tuple[float, int, int]] = []
    for places, start, end in of_one:
        for i in np.argsort(start)[-1 : -BEST - 1 : -1].tolist():
            for j in np.argsort(end)[-1 : -BEST - 1 : -1].tolist():
                real = i < len(places) and j < len(places) and places[i] is not None and places[j] is not None
                if real and i <= j < i + LONGEST:
                    found.append((float(start[i] + end[j]), places[i][0], places[j][1]))
    _, first, last = max(found, default=(0.0, 0, 0))
    return context[first:last]


def measure(cell: Cell) -> dict[str, Any]:
    train, test = data()
    side = luthier_side if cell["side"] == "luthier" else peer_side
    with tempfile.TemporaryDirectory() as folder:
        return {"train_rows": len(train), "test_rows": len(test), **side(cell, train, test, Path(folder))}


if __name__ == "__main__":
    about: Cell = {"task": "answer", "data": "xquad_en", "model": "starter:minilm", "method": "full", "rate": 2e-4}
    sides = ("luthier", "transformers", NO_SEGMENTS)
    conduct(
        "language_answer",
        [{**about, "side": side, "seed": seed} for seed in (0, 1, 2) for side in sides],
        measure,
    )
