"""AdapterFusion with few examples: three trained adapters of MiniLM, fused for a fourth task.

    python benchmarks/fusion.py                    # 64 rows of Yelp reviews, three seeds
    python benchmarks/fusion.py --few 16 64 256
    python benchmarks/fusion.py --table            # the table of what was measured, nothing run

Sources: Pfeiffer adapters (one seed) on rt_polarity, Amazon reviews and clinc150. Target: Yelp reviews, n rows drawn by
the seed, tested on 500 others that no seed draws from. Beside fusion: an adapter from scratch, one that begins as each
source's (the best of them is told as such: chosen on the test rows, so it is flattered), LoRA from scratch, and
logistic regression on frozen vectors. Every target run has the same steps and its method's own learning rate; nothing
is chosen on held-out rows (`final: last`). Started again, finished runs are not run again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

import luthier

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data"
WORK = Path(os.environ.get("LUTHIER_BENCH", HERE / "results" / "fusion_runs"))
OUT = HERE / "results" / "fusion"
SOURCES = {
    "rt_polarity": ("rt_polarity/train.jsonl.gz", 2.0),
    "amazon": ("uci_sentiment/amazon.jsonl", 6.0),
    "clinc150": ("clinc150/train.jsonl.gz", 2.0),
}
TEST, STEPS = 500, 240


def rows_of(path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def target(few: int, seed: int) -> dict[str, Any]:
    """n rows by seed, half of each label, and the 500 test rows, which are the same for all."""
    seen: dict[str, dict[str, Any]] = {
        row["text"].strip().lower(): row for row in rows_of(DATA / "uci_sentiment/yelp.jsonl")
    }
    rows = list(seen.values())
    random.Random(0).shuffle(rows)
    test, pool = rows[:TEST], rows[TEST:]
    random.Random(1000 + seed).shuffle(pool)
    drawn = [row for label in (0, 1) for row in [r for r in pool if r["label"] == label][: few // 2]]
    folder = WORK / "data"
    return {
        "train": write(folder / f"yelp-{few}-{seed}.jsonl", drawn),
        "eval": write(folder / "yelp-test.jsonl", test),
        "on_leak": "drop",
    }


def source(name: str) -> str:
    path, epochs = SOURCES[name]
    rows = [{"text": row["text"], "label": str(row["label"])} for row in rows_of(DATA / path)]
    train = write(WORK / "data" / f"{name}.jsonl", rows)
    data = {"train": train, "eval": 0.1, "on_leak": "drop"}
    run = luthier.tune(
        task="classify", model="starter:minilm", data=data, method="adapter", epochs=epochs, out=str(WORK), name=name,
    )  # fmt: skip
    return str(run.folder)


def measured(few: int, seed: int, sources: dict[str, str]) -> list[dict[str, Any]]:
    methods: dict[str, Any] = {
        "fusion": {"fusion": {"runs": list(sources.values())}},
        "adapter, from scratch": "adapter",
        "lora, from scratch": "lora",
        "features": "features",
        **{f"adapter, begun as {name}": {"adapter": {"start": [run]}} for name, run in sources.items()},
    }
    found = []
    for name, method in methods.items():
        run = luthier.tune(
            task="classify", model="starter:minilm", data=target(few, seed), method=method, seed=seed, steps=STEPS,
            batch_size=16, final="last", eval_every=STEPS, out=str(WORK), name=f"{few}-{seed}-{name.replace(' ', '_')}",
        )  # fmt: skip
        accuracy = run.result["after"]["accuracy"]
        cell = {"few": few, "seed": seed, "method": name, "accuracy": accuracy["value"], "low": accuracy["low"],
                "high": accuracy["high"], "trainable": run.result["trainable"], "seconds": run.result["seconds"],
                "mixing": run.result.get("mixing")}  # fmt: skip
        found.append(cell)
        print(few, seed, name, accuracy["value"], flush=True)
    return found


def table(told: dict[str, Any]) -> str:
    lines = ["# AdapterFusion with few examples", "", "Accuracy on 500 Yelp reviews; see the head of `fusion.py`.", ""]
    lines += ["| rows | method | mean over seeds (min to max) | trainable |", "|---|---|---|---|"]
    cells = told["cells"]
    for few in sorted({cell["few"] for cell in cells}):
        begun: dict[str, float] = {}
        for method in dict.fromkeys(cell["method"] for cell in cells if cell["few"] == few):
            mine = [cell for cell in cells if (cell["few"], cell["method"]) == (few, method)]
            values = [cell["accuracy"] for cell in mine]
            mean = statistics.mean(values)
            if "begun as" in method:
                begun[method] = mean
            spread = f"{mean:.4f} ({min(values):.4f} to {max(values):.4f}, n = {len(values)})"
            lines.append(f"| {few} | {method} | {spread} | {mine[0]['trainable']:,} |")
        best = max(begun, key=lambda name: begun[name])
        lines.append(f"| {few} | *best single: {best}, chosen on the test rows* | {begun[best]:.4f} | |")
    lines += ["", "## How the fusion mixes (mean over test rows and seeds)", ""]
    for few in sorted({cell["few"] for cell in cells}):
        mixes = [cell["mixing"] for cell in cells if cell["few"] == few and cell["mixing"]]
        members = mixes[0]["members"]
        lines += [f"| {few} rows: layer | {' | '.join(members)} |", f"|---|{'---|' * len(members)}"]
        for layer in range(len(mixes[0]["layers"])):
            means = [statistics.mean(mix["layers"][layer][at] for mix in mixes) for at in range(len(members))]
            lines.append(f"| {layer} | {' | '.join(f'{value:.3f}' for value in means)} |")
        lines.append("")
    lines += [f"The sources, on a tenth of their own rows: {told['sources']}.", "", told["with"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, nargs="+", default=[64])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        sources = {name: source(name) for name in SOURCES}
        scores = {name: luthier.load(run).result["after"]["accuracy"]["value"] for name, run in sources.items()}
        cells = [cell for few in given.few for seed in range(given.seeds) for cell in measured(few, seed, sources)]
        versions = ", ".join(f"{name} {version(name)}" for name in ("luthier", "torch", "transformers"))
        told = {
            "cells": cells,
            "sources": ", ".join(f"{name} {score:.4f}" for name, score in scores.items()),
            "with": f"{versions}; {platform.machine()}, {os.environ.get('OMP_NUM_THREADS', '?')} thread(s)",
        }
        OUT.with_suffix(".json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    OUT.with_suffix(".md").write_text(
        table(json.loads(OUT.with_suffix(".json").read_text(encoding="utf-8"))), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
