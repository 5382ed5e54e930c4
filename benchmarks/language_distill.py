"""Students with and without a teacher, each beside transformers' Trainer with `compute_loss` of its own.

    python benchmarks/language_distill.py     # two sides, three seeds

Classes: rt_polarity; the teacher is the whole starter encoder tuned on ``TEACHER_ROWS`` rows, the student its first two
layers tuned on 1,000 of them, with labels alone or with the teacher's probabilities. Tokens: tinyshakespeare; the
teacher is stories260k (5 layers) tuned on it, the student a random Llama of 2 layers, by the same steps with
cross-entropy alone, forward KL and reverse KL. Teachers are tuned once, by Luthier, and are not in the times. The peer
is the usual recipe: a frozen teacher's forward in every step, whole logits of both, T² KL and cross-entropy mixed by
alpha. Scores are of rows held out: accuracy, or cross-entropy in nats a token.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import SHARED, Cell, arguments, conduct, starter

KEPT = Path(tempfile.gettempdir()) / "luthier-distill-teachers"
TEACHER_ROWS, TRAIN, TEST = 4000, 1000, 1000
CHUNK, CHUNKS, HELD_OUT = 400, 400, 60  # characters of a text; texts to train on and to test on
ALPHA, TEMPERATURE = 0.5, {"classify": 2.0, "complete": 1.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "classify": {"batch_size": 32, "epochs": 4, "learning_rate": 2e-4},
    "complete": {"batch_size": 16, "epochs": 4, "learning_rate": 2e-3},
}
Rows = list[dict[str, Any]]


def polarity(name: str, count: int) -> Rows:
    with gzip.open(SHARED / "data" / "rt_polarity" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [{key: row[key] for key in ("text", "label")} for row in map(json.loads, file)][:count]


def texts() -> tuple[Rows, Rows]:
    """Pieces of the play, in the order that they stand; those held out come from its end."""
    with gzip.open(SHARED / "data" / "tinyshakespeare" / "input.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read()
    pieces = [{"text": text[at : at + CHUNK].strip()} for at in range(0, len(text) - CHUNK, CHUNK)]
    return pieces[:CHUNKS], pieces[-HELD_OUT:]


def rows_of(task: str) -> tuple[Rows, Rows]:
    return (polarity("train", TRAIN), polarity("test", TEST)) if task == "classify" else texts()


def write(path: Path, rows: Rows) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def student(task: str) -> str:
    """The starter's first two layers; a Llama of two layers with random numbers, the same for all."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    folder = KEPT / f"student-{task}"
    if not (folder / "config.json").is_file():
        source = starter() if task == "classify" else str(SHARED / "models" / "stories260k-fp32")
        if task == "classify":
            model: Any = AutoModel.from_pretrained(source)
            model.encoder.layer = model.encoder.layer[:2]
            model.config.num_hidden_layers = 2
        else:
            config = AutoModelForCausalLM.from_pretrained(source).config
            config.num_hidden_layers = 2
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return str(folder)


def teacher(task: str) -> str:
    """A run folder; tuned where it is not there yet."""
    import luthier

    rows = polarity("train", TEACHER_ROWS) if task == "classify" else rows_of(task)[0]
    model = "starter:minilm" if task == "classify" else str(SHARED / "models" / "stories260k-fp32")
    rate = 1e-4 if task == "classify" else 2e-3
    run = luthier.tune(
        task=task, model=model, method="full", out=str(KEPT), name=f"teacher-{task}", final="last", precision="fp32",
        data={"train": write(KEPT / f"{task}-teacher.jsonl", rows), "eval": 0}, batch_size=32, learning_rate=rate,
        epochs=2 if task == "classify" else 6,
    )  # fmt: skip
    return str(run.folder)


def luthier_side(cell: Cell, folder: Path) -> dict[str, Any]:
    import luthier

    task, (train, test) = cell["task"], rows_of(cell["task"])
    taught = {
        "teacher": cell["teacher"],
        "divergence": cell["method"],
        "alpha": ALPHA,
        "temperature": TEMPERATURE[task],
    }
    run = luthier.tune(
        task=task, model=student(task), method="full", out=str(folder), seed=cell["seed"], warmup=0, final="last",
        data={"train": write(folder / "train.jsonl", train), "eval": 0}, precision="fp32",
        **SETTINGS[task], **({} if cell["method"] == "labels" else {"distill": taught}),
    )  # fmt: skip
    metrics = run.evaluate(write(folder / "test.jsonl", test))["metrics"]
    name = "accuracy" if task == "classify" else "loss"
    return {"steps": run.result["steps"], "score": {name: metrics[name]["value"]}}


def peer_side(cell: Cell, folder: Path) -> dict[str, Any]:
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        Trainer,
        TrainingArguments,
    )

    task, kind = cell["task"], cell["method"]
    classes = task == "classify"
    auto: Any = AutoModelForSequenceClassification if classes else AutoModelForCausalLM
    tokenizer = AutoTokenizer.from_pretrained(student(task))
    train, test = (encoded(tokenizer, rows, classes) for rows in rows_of(task))
    torch.manual_seed(cell["seed"])
    model = auto.from_pretrained(student(task), **({"num_labels": 2} if classes else {}))
    master = auto.from_pretrained(f"{cell['teacher']}/final").eval() if kind != "labels" else None

    class Distiller(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None):
            labels = inputs.pop("labels")
            logits = model(**inputs).logits
            with torch.no_grad():
                theirs = master(**inputs).logits if master is not None else None
            return total(logits, theirs, labels, kind, TEMPERATURE[task])

    settings = SETTINGS[task]
    told = arguments(
        str(folder), seed=cell["seed"], learning_rate=settings["learning_rate"], num_train_epochs=settings["epochs"],
        per_device_train_batch_size=settings["batch_size"], remove_unused_columns=False,
    )  # fmt: skip
    trainer = Distiller(
        model=model, args=TrainingArguments(**told), train_dataset=train,
        data_collator=lambda rows: padded(rows, tokenizer, classes),
    )  # fmt: skip
    trainer.train()
    return {"steps": trainer.state.global_step, "score": judged(model, test, tokenizer, classes)}


def encoded(tokenizer: Any, rows: Rows, classes: bool) -> Rows:
    if classes:
        names = sorted({row["label"] for row in rows})
        return [{"input_ids": tokenizer(r["text"])["input_ids"], "labels": names.index(r["label"])} for r in rows]
    made = [tokenizer(row["text"], add_special_tokens=False)["input_ids"] for row in rows]
    ids = [[tokenizer.bos_token_id, *one, tokenizer.eos_token_id] for one in made]
    return [{"input_ids": one, "labels": one} for one in ids]


def padded(rows: Rows, tokenizer: Any, classes: bool) -> dict[str, Any]:
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    lengths = [len(row["input_ids"]) for row in rows]
    fill = tokenizer.pad_token_id or 0
    batch = {
        "input_ids": torch.tensor([row["input_ids"] + [fill] * (longest - len(row["input_ids"])) for row in rows]),
        "attention_mask": torch.tensor([[1] * length + [0] * (longest - length) for length in lengths]),
    }
    labels = [
        row["labels"] if classes else row["labels"] + [-100] * (longest - length)
        for row, length in zip(rows, lengths, strict=True)
    ]
    return batch | {"labels": torch.tensor(labels)}


def total(logits: Any, theirs: Any, labels: Any, kind: str, temperature: float) -> Any:
    """α T² KL + (1 - α) cross-entropy, a mean over tokens or rows; cross-entropy alone without a teacher."""
    import torch.nn.functional as F

    if logits.ndim == 3:
        keep = labels[:, 1:] != -100
        logits, labels = logits[:, :-1][keep], labels[:, 1:][keep]
        theirs = theirs[:, :-1][keep] if theirs is not None else None
    cross = F.cross_entropy(logits, labels)
    if theirs is None:
        return cross
    q, p = (F.log_softmax(z / temperature, -1) for z in (logits, theirs))
    first, second = (q, p) if kind == "forward" else (p, q)
    apart = F.kl_div(first, second, reduction="batchmean", log_target=True)
    return ALPHA * temperature**2 * apart + (1 - ALPHA) * cross


def judged(model: Any, rows: Rows, tokenizer: Any, classes: bool) -> dict[str, float]:
    import torch
    import torch.nn.functional as F

    model.eval()
    right, nats, count = 0, 0.0, 0
    with torch.no_grad():
        for at in range(0, len(rows), 32):
            batch = padded(rows[at : at + 32], tokenizer, classes)
            labels = batch.pop("labels")
            logits = model(**batch).logits
            if classes:
                right, count = right + int((logits.argmax(-1) == labels).sum()), count + len(labels)
                continue
            nats += float(F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"))
            count += int((labels[:, 1:] != -100).sum())
    return {"accuracy": right / count} if classes else {"loss": nats / count}


def measure(cell: Cell) -> dict[str, Any]:
    sides = {"luthier": luthier_side, "transformers": peer_side}
    cell = {**cell, "teacher": str(KEPT / f"teacher-{cell['task']}")}
    train, test = rows_of(cell["task"])
    taught = TEACHER_ROWS if (cell["side"], cell["task"]) == ("teacher", "classify") else len(train)
    counted = {"train_rows": taught, "test_rows": len(test)}
    with tempfile.TemporaryDirectory() as folder:
        if cell["side"] == "teacher":
            return {"steps": 0, "score": judged_teacher(cell, Path(folder), test)} | counted
        return sides[cell["side"]](cell, Path(folder)) | counted


def judged_teacher(cell: Cell, folder: Path, test: Rows) -> dict[str, float]:
    from luthier import load

    metrics = load(teacher(cell["task"])).evaluate(write(folder / "test.jsonl", test))["metrics"]
    name = "accuracy" if cell["task"] == "classify" else "loss"
    return {name: metrics[name]["value"]}


if __name__ == "__main__":
    about = {
        "classify": {"task": "classify", "data": "rt_polarity", "model": "starter:minilm, 2 of 6 layers"},
        "complete": {"task": "complete", "data": "tinyshakespeare", "model": "Llama, 2 layers"},
    }
    kinds = {"classify": ("labels", "forward"), "complete": ("labels", "forward", "reverse")}
    cells: list[Cell] = [
        {**about[task], "method": "teacher", "rate": None, "side": "teacher", "seed": 0} for task in about
    ]
    cells += [
        {**about[task], "method": kind, "rate": SETTINGS[task]["learning_rate"], "side": side, "seed": seed}
        for task in ("complete", "classify")
        for kind in kinds[task]
        for seed in (0, 1, 2)
        for side in ("luthier", "transformers")
    ]
    conduct("language_distill", cells, measure)
