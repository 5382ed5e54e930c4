"""Instruction tuning, side by side: Luthier against transformers.Trainer with a loss on the answers alone.

    python benchmarks/language_chat.py             # measures what is missing in results/language_chat.json
    python benchmarks/language_chat.py --table     # the table of what was measured, nothing run

stories260k in fp32 with the template ``plain``, on Self-Instruct's seed tasks and on 1,200 rows of the T0 tasks. Both
sides get the same rows, batch size, steps, learning rate (linear, no warm-up), weight decay and clipping; the peer
renders and masks in its own few lines, pads each batch and draws its own order. The score is nats per answer token on
the rows held out, terminator included, which the peer takes of its own logits. Each side runs in a process of its own,
with one thread.
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

from quality_peers import (
    HERE,
    SHARED,
    STORIES,
    WEIGHT_DECAY,
    Cell,
    answer_loss,
    measure_sides,
    padded,
    training_arguments,
)

RESULT = HERE / "results" / "language_chat.json"
BATCH, EPOCHS, RATE, LONGEST = 16, 3, 1e-3, 512
DATA = ("seed_instructions", "t0_tasks")
SIDES = ("luthier", "transformers")


def exchanges(data: str) -> list[tuple[str, str]]:
    """(question, answer) of each row whose text is surely within the model's positions: a byte is a token at most."""
    if data == "seed_instructions":
        lines = (SHARED / "data" / data / "seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [(row["instruction"], row["instances"][0]) for row in map(json.loads, lines)]
        found = [("\n\n".join(p for p in (asked, one["input"]) if p.strip()), one["output"]) for asked, one in rows]
    else:
        with gzip.open(SHARED / "data" / data / "instructions.jsonl.gz", "rt", encoding="utf-8") as file:
            found = [(row["prompt"], row["completion"]) for row in map(json.loads, file)]
    short = [(a, b) for a, b in dict.fromkeys(found) if len(f"{a}{b}".encode()) < LONGEST - 40 and b.strip()]
    random.Random(0).shuffle(short)
    return short[:1200]


def split(data: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    rows = exchanges(data)
    held_out = len(rows) // 5
    return rows[held_out:], rows[:held_out]


def luthier_side(data: str, seed: int) -> dict[str, Any]:
    import luthier

    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, rows in zip(("train", "test"), split(data), strict=True):
            paths.append(Path(folder) / f"{name}.jsonl")
            lines = [json.dumps({"prompt": asked, "completion": said}) + "\n" for asked, said in rows]
            paths[-1].write_text("".join(lines), encoding="utf-8")
        began = time.perf_counter()
        run = luthier.tune(
            task="chat", model={"name": str(STORIES), "template": "plain"}, method="full", batch_size=BATCH, seed=seed,
            data={"train": str(paths[0]), "eval": str(paths[1]), "on_leak": "drop"}, epochs=EPOCHS, learning_rate=RATE,
            warmup=0.0, weight_decay=WEIGHT_DECAY, precision="fp32", final="last", eval_every=10**6, out=folder,
        )  # fmt: skip
        found, seconds = run.result, time.perf_counter() - began
    return {
        "score": {"loss_before": found["before"]["loss"]["value"], "loss": found["after"]["loss"]["value"]},
        "seconds": seconds, "steps": found["steps"], "train_rows": found["data"]["train"]["used"],
        "test_rows": found["data"]["eval"]["used"],
    }  # fmt: skip


def encode(tokenizer: Any, asked: str, said: str) -> dict[str, Any]:
    """The template ``plain`` of one exchange; the tokens that begin at or after the answer's space are its own."""
    prompt = f"User: {asked}\nAssistant:"
    made = tokenizer(f"{prompt} {said}</s>\n", return_offsets_mapping=True, add_special_tokens=False)
    ids, offsets = list(made["input_ids"]), made["offset_mapping"]
    end = len(prompt) + 1 + len(said) + len("</s>")
    taught = [len(prompt) <= start and stop <= end for start, stop in offsets]
    return {"input_ids": [tokenizer.bos_token_id, *ids], "supervised": [False, *taught]}


def peer_side(data: str, seed: int) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

    began = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    model = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32)
    train, test = ([encode(tokenizer, *row) for row in rows] for rows in split(data))

    before = answer_loss(model, test, BATCH)
    steps = EPOCHS * math.ceil(len(train) / BATCH)
    arguments = training_arguments(
        Cell("chat", data, "full", "peer", seed),
        learning_rate=RATE,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        remove_unused_columns=False,
    )
    Trainer(model=model, args=arguments, train_dataset=train, data_collator=padded).train()
    return {
        "score": {"loss_before": before, "loss": answer_loss(model, test, BATCH)},
        "seconds": time.perf_counter() - began, "steps": steps, "train_rows": len(train), "test_rows": len(test),
    }  # fmt: skip


def one(data: str, side: str, seed: int) -> dict[str, Any]:
    """A side in this process."""
    import torch

    torch.set_num_threads(1)
    found = luthier_side(data, seed) if side == "luthier" else peer_side(data, seed)
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {"task": "chat", "data": data, "model": "stories260k", "method": "full", "side": side, "seed": seed}
    return told | found | {"cpu_seconds": used.ru_utime + used.ru_stime}


def kept() -> dict[str, Any]:
    return json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"made": {}, "rows": []}


def table() -> str:
    lines = [
        "| data | side | seed | rows | steps | loss before → after | seconds | processor seconds |",
        "|" + "---|" * 8,
    ]
    for row in kept()["rows"]:
        fall = f"{row['score']['loss_before']:.4f} → {row['score']['loss']:.4f}"
        rows = f"{row['train_rows']} + {row['test_rows']}"
        parts = [row["data"], row["side"], row["seed"], rows, row["steps"], fall]
        parts += [f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}"]
        lines.append(f"| {' | '.join(map(str, parts))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        data, side, seed = given.one
        print("\n" + json.dumps(one(data, side, int(seed))))
        return
    if not given.table:
        measure_sides(__file__, RESULT, DATA, SIDES, given.seeds)
    print(table())


if __name__ == "__main__":
    main()
