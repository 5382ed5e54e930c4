"""Code, side by side: Luthier against transformers.Trainer with a loss on the answers alone.

    python benchmarks/language_code.py             # measures what is missing in results/language_code.json

The starter language model goes on with functions of Python's own standard library, each a function that is begun and
how it goes on, and with GPTeacher's code instructions (rows that fit into 256 tokens). Both sides get the same rows,
batch size, steps, learning rate (linear, no warm-up), weight decay and clipping; the peer renders ChatML and masks in
its own few lines, pads each batch and draws its own order. The score is nats per answer token on the
rows held out. Each side runs in a process of its own, with one thread.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from quality_peers import HERE, SHARED, WEIGHT_DECAY, Cell, answer_loss, measure_sides, padded, training_arguments

RESULT = HERE / "results" / "language_code.json"
BATCH, EPOCHS, RATE, LONGEST, MOST = 16, 2, 1e-3, 256, 1000
DATA, SIDES = ("python:stdlib", "gpteacher_codegen"), ("luthier", "transformers")
ASKED = "Complete this Python function.\n\n"
Row = dict[str, Any]


def split(data: str, tokenizer: Any) -> tuple[list[Row], list[Row]]:
    """Rows for training and those held out; all fit."""
    from luthier.data.files.problems import read_python

    if data == "python:stdlib":
        rows = [row for _, row in read_python(data)[0]]
    else:
        with gzip.open(SHARED / "data" / data / "codegen.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        rows = [row for row in rows if row["response"].strip()]
    rows = list({json.dumps(pair(row)): row for row in rows}.values())
    random.Random(0).shuffle(rows)
    short = [row for row in rows[: 4 * MOST] if len(encode(tokenizer, row)["input_ids"]) < LONGEST][: MOST + MOST // 5]
    return short[MOST // 5 :], short[: MOST // 5]


def pair(row: Row) -> tuple[str, str]:
    """(what the user says, what is to be answered)."""
    if "prompt" in row:
        return ASKED + row["prompt"], (row["prompt"] + row["canonical_solution"]).rstrip()
    parts = [row["instruction"], row["input"] or ""]
    return "\n\n".join(part for part in parts if part.strip()), row["response"].rstrip()


def encode(tokenizer: Any, row: Row) -> Row:
    asked, said = pair(row)
    before = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    made = tokenizer(f"{before}{said}<|im_end|>\n", return_offsets_mapping=True, add_special_tokens=False)
    end = len(before) + len(said) + len("<|im_end|>")
    taught = [len(before) <= start and stop <= end for start, stop in made["offset_mapping"]]
    return {"input_ids": list(made["input_ids"]), "supervised": taught}


def opened() -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from luthier.models.locate import locate

    folder, _ = locate("starter:lm", HERE)
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def luthier_side(data: str, seed: int) -> Row:
    import luthier

    train, test = split(data, opened()[0])
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, rows in (("train", train), ("eval", test)):
            file = Path(folder) / f"{name}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            paths[name] = str(file)
        began = time.perf_counter()
        run = luthier.tune(
            task="code", model="starter:lm", method="full", batch_size=BATCH, seed=seed, epochs=EPOCHS,
            data={**paths, "on_leak": "drop"}, learning_rate=RATE, warmup=0.0, weight_decay=WEIGHT_DECAY,
            precision="fp32", final="last", eval_every=10**6, max_length=LONGEST, out=folder,
        )  # fmt: skip
        found, seconds = run.result, time.perf_counter() - began
    return {
        "score": {"loss_before": found["before"]["loss"]["value"], "loss": found["after"]["loss"]["value"]},
        "seconds": seconds, "steps": found["steps"], "train_rows": found["data"]["train"]["used"],
        "test_rows": found["data"]["eval"]["used"],
    }  # fmt: skip


def peer_side(data: str, seed: int) -> Row:
    from transformers import Trainer

    began = time.perf_counter()
    tokenizer, model = opened()
    train, test = ([encode(tokenizer, row) for row in rows] for rows in split(data, tokenizer))

    before, steps = answer_loss(model, test, BATCH), EPOCHS * math.ceil(len(train) / BATCH)
    arguments = training_arguments(
        Cell("code", data, "full", "peer", seed), learning_rate=RATE, max_steps=steps,
        per_device_train_batch_size=BATCH, remove_unused_columns=False,
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=train, data_collator=padded).train()
    return {
        "score": {"loss_before": before, "loss": answer_loss(model, test, BATCH)},
        "seconds": time.perf_counter() - began, "steps": steps, "train_rows": len(train), "test_rows": len(test),
    }  # fmt: skip


def one(data: str, side: str, seed: int) -> Row:
    """A side in this process."""
    import torch

    torch.set_num_threads(1)
    found = luthier_side(data, seed) if side == "luthier" else peer_side(data, seed)
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {"task": "code", "data": data, "model": "starter:lm", "method": "full", "side": side, "seed": seed}
    return told | found | {"cpu_seconds": used.ru_utime + used.ru_stime}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        data, side, seed = given.one
        print("\n" + json.dumps(one(data, side, int(seed))))
        return
    measure_sides(__file__, RESULT, DATA, SIDES, given.seeds)


if __name__ == "__main__":
    main()
