"""Tagging beside transformers' example `run_ner.py`: what the names in Python's own standard library are.

    python benchmarks/language_tag.py     # two sides, full and LoRA, three seeds; needs seqeval

A row is a few lines of a module as `tokenize` cuts them into words, without comments and docstrings, long strings cut;
its entities are what `ast` says: names of functions, classes and parameters where they are defined, modules that are
imported, what is called, raised or caught, decorators and bases (dotted names are entities of several words). Modules
are either trained on or tested on. It is a real labelling that every machine has; it is not natural language.

The peer follows the example: words are tokenized one by one, the first token of each has the label, Trainer pads
batches. Same rows, steps, batch, rate and schedule; both sides are scored by seqeval on all words.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import sysconfig
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from side_by_side import Cell, arguments, conduct, starter

TRAIN, TEST, WORDS, STRING = 1200, 400, 24, 16
BATCH, EPOCHS = 16, 2
MAX_LENGTH = 256
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}

Row = dict[str, list[str]]
Place = tuple[int, int]  # line, character


def rows_of(source: str) -> Iterator[Row]:
    """Logical lines of a module, put together until a row has ``WORDS`` words."""
    tree = ast.parse(source)
    lines = source.splitlines()
    named = dict(entities(tree, lines))
    docstrings = {node.value.lineno for node in ast.walk(tree) if is_docstring(node)}
    words: list[str] = []
    tags: list[str] = []
    inside: tuple[str, Place] | None = None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            if len(words) >= WORDS:
                yield {"tokens": words, "tags": tags}
                words, tags = [], []
            continue
        if token.type in SKIPPED or (token.type == tokenize.STRING and token.start[0] in docstrings):
            continue
        if token.start in named:
            inside = named[token.start]
            tags.append(f"B-{inside[0]}")
        elif inside and token.start < inside[1]:
            tags.append(f"I-{inside[0]}")
        else:
            tags.append("O")
        text = token.string
        words.append("".join(text[:STRING].split()) if token.type == tokenize.STRING else text)


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def entities(tree: ast.AST, lines: list[str]) -> Iterator[tuple[Place, tuple[str, Place]]]:
    """(start, (kind, end)) of each entity; where two begin at one place the later one counts."""

    def at(line: int, byte: int) -> Place:
        return line, len(lines[line - 1].encode()[:byte].decode())

    def whole(node: ast.AST) -> tuple[Place, Place]:
        return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def after(node: ast.AST, word: str) -> tuple[Place, Place]:
        """The name that follows ``word`` on the node's line."""
        line = node.lineno  # type: ignore[attr-defined]
        first = lines[line - 1].index(f"{word} ", at(line, node.col_offset)[1]) + len(word) + 1  # type: ignore
        return (line, first), (line, first + len(node.name))  # type: ignore[attr-defined]

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func):
            found.append((0, "CALL", whole(node.func)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((2, "FUNCTION", after(node, "def")))
            found += [(2, "DECORATOR", whole(name)) for one in node.decorator_list if (name := called(one))]
        if isinstance(node, ast.ClassDef):
            found.append((2, "CLASS", after(node, "class")))
            found += [(1, "BASE", whole(base)) for base in node.bases if dotted(base)]
        if isinstance(node, ast.arg):
            start, _ = whole(node)
            found.append((1, "PARAMETER", (start, (start[0], start[1] + len(node.arg)))))
        if isinstance(node, ast.Raise) and node.exc and (name := called(node.exc)):
            found.append((2, "EXCEPTION", whole(name)))
        if isinstance(node, ast.ExceptHandler) and node.type and dotted(node.type):
            found.append((2, "EXCEPTION", whole(node.type)))
        if isinstance(node, ast.Import):
            for alias in node.names:
                start, _ = whole(alias)
                found.append((2, "MODULE", (start, (start[0], start[1] + len(alias.name)))))
    for _, kind, (start, end) in sorted(found):
        yield start, (kind, end)


def dotted(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and dotted(node.value))


def called(node: ast.AST) -> ast.AST | None:
    """The dotted name itself, or what is called of it."""
    node = node.func if isinstance(node, ast.Call) else node
    return node if dotted(node) else None


def data() -> tuple[list[Row], list[Row]]:
    """Train and test, from different modules; the same on every machine with the same Python."""
    sides: dict[bool, list[Row]] = {False: [], True: []}
    seen: set[str] = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        held_out = hashlib.sha256(path.name.encode()).digest()[0] < 64
        for row in rows_of(path.read_text(encoding="utf-8")):
            text = " ".join(row["tokens"]).lower()
            if text not in seen and len(row["tokens"]) <= 80:
                seen.add(text)
                sides[held_out].append(row)
    return _drawn(sides[False], TRAIN), _drawn(sides[True], TEST)


def _drawn(rows: list[Row], count: int) -> list[Row]:
    """In an order that no module has to itself."""
    return sorted(rows, key=lambda row: hashlib.sha256(" ".join(row["tokens"]).encode()).digest())[:count]


def scored(predicted: list[list[str]], expected: list[list[str]]) -> dict[str, float]:
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

    of = {"f1": f1_score, "precision": precision_score, "recall": recall_score, "token_accuracy": accuracy_score}
    return {name: round(float(metric(expected, predicted)), 4) for name, metric in of.items()}


def write(folder: Path, name: str, rows: list[Row]) -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


def luthier_side(cell: Cell, train: list[Row], test: list[Row], folder: Path) -> dict[str, Any]:
    import luthier

    run = luthier.tune(
        task="tag", model="starter:minilm", method=cell["method"], out=str(folder), seed=cell["seed"],
        data={"train": write(folder, "train.jsonl", train), "eval": 0}, batch_size=BATCH, epochs=EPOCHS, warmup=0,
        learning_rate=cell["rate"], max_length=MAX_LENGTH, final="last",
    )  # fmt: skip
    answers = run.predict([{"tokens": row["tokens"]} for row in test])
    return {"steps": run.result["steps"], **_both([answer["tags"] for answer in answers], test, len(train))}


def peer_side(cell: Cell, train: list[Row], test: list[Row], folder: Path) -> dict[str, Any]:
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        Trainer,
        TrainingArguments,
    )

    labels = sorted({tag for row in train for tag in row["tags"]})
    ids = {label: at for at, label in enumerate(labels)}
    tokenizer = AutoTokenizer.from_pretrained(starter())

    def encoded(row: Row) -> dict[str, Any]:
        made = tokenizer(row["tokens"], is_split_into_words=True, truncation=True, max_length=MAX_LENGTH)
        words, given = made.word_ids(), []
        for at, word in enumerate(words):
            first = word is not None and (at == 0 or words[at - 1] != word)
            given.append(ids.get(row["tags"][word], 0) if first else -100)
        return {**made, "labels": given}

    torch.manual_seed(cell["seed"])
    model = AutoModelForTokenClassification.from_pretrained(starter(), num_labels=len(labels))
    if cell["method"] == "lora":
        inside = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".encoder.layer." in n]
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=inside, task_type="TOKEN_CLS"))
    settings = arguments(
        str(folder), seed=cell["seed"], learning_rate=cell["rate"], num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=TrainingArguments(**settings), train_dataset=[encoded(row) for row in train],
        data_collator=DataCollatorForTokenClassification(tokenizer),
    )  # fmt: skip
    trainer.train()
    rows = [encoded(row) for row in test]
    best = trainer.predict(rows).predictions.argmax(-1)
    predicted = []
    for row, features, found in zip(test, rows, best, strict=True):
        read = [labels[i] for i, label in zip(found, np.array(features["labels"]), strict=False) if label != -100]
        predicted.append(read + ["O"] * (len(row["tags"]) - len(read)))  # words that were cut off
    return {"steps": trainer.state.global_step, **_both(predicted, test, len(train))}


def _both(predicted: list[list[str]], test: list[Row], train_rows: int) -> dict[str, Any]:
    score = scored(predicted, [row["tags"] for row in test])
    return {"score": score, "train_rows": train_rows, "test_rows": len(test)}


def measure(cell: Cell) -> dict[str, Any]:
    train, test = data()
    with tempfile.TemporaryDirectory() as folder:
        side = luthier_side if cell["side"] == "luthier" else peer_side
        return side(cell, train, test, Path(folder))


if __name__ == "__main__":
    cell: Cell = {"task": "tag", "data": "python standard library", "model": "starter:minilm"}
    runs = [(*of, seed) for of in (("full", 1e-4), ("lora", 5e-4), ("full", 5e-5)) for seed in (0, 1, 2)]
    sides = ("luthier", "transformers")
    conduct(
        "language_tag",
        [
            {**cell, "method": method, "rate": rate, "side": side, "seed": seed}
            for method, rate, seed in runs
            for side in sides
        ],
        measure,
    )
