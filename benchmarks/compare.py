"""Every way to choose θ on rt_polarity: `luthier compare` on 7,661 snippets of film reviews, tested on 1,000 others.

    python benchmarks/compare.py                               # eight methods, three seeds, one epoch: about two hours
    python benchmarks/compare.py --methods lora,full --seeds 1
    python benchmarks/compare.py --table                       # the table of what was measured, nothing run

The starter encoder (22.7M parameters), fp32, one thread a process, each method at its default learning rate. Writes
results/compare.json, compare.md and compare.html. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import luthier
from luthier.reports.compare_console import Progress

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data" / "rt_polarity"
WORK = Path(os.environ.get("LUTHIER_BENCH", HERE / "results" / "compare_runs"))
OUT = HERE / "results"
METHODS = "features,bitfit,prompt,prefix,ia3,adapter,lora,full"


def table(result: dict[str, Any]) -> str:
    head = ["method", "accuracy, mean of seeds", "95 % interval", "min to max (seeds)", "learning rate", "trained"]
    head += ["training", "peak memory", "saved", "inference"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for one in sorted(result["methods"], key=lambda m: -m.get("score", {"value": 0})["value"]):
        if "score" not in one:
            lines.append(f"| {one['name']} | {one['status']}: {one.get('reason', '')} |{' |' * (len(head) - 2)}")
            continue
        score = one["score"]
        spread = f"{score['min']:.4f} to {score['max']:.4f} ({len(score['seeds'])})"
        rate = f"{one['learning_rate']:g}" if one.get("learning_rate") else "–"
        cells = [one["name"], f"{score['value']:.4f}", f"{score['low']:.4f} to {score['high']:.4f}", spread, rate]
        cells += [f"{one['trainable']:,}", f"{one['seconds']:.0f} s", f"{one['peak_memory_mb']:,} MB"]
        cells += [f"{one['weights_mb']:.2f} MB", f"×{one['inference']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    told = [f"- {reason}" for reason in result["reasons"]]
    versions = ", ".join(f"{name} {version(name)}" for name in ("luthier", "torch", "transformers", "peft"))
    return "\n".join(["# Methods compared on rt_polarity", "", *lines, "", *told, "", f"{versions}; one thread.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    folder = WORK / "rt_polarity"
    if not given.table:
        recipe = {
            "task": "classify", "model": "starter:minilm", "epochs": given.epochs, "out": str(WORK),
            "data": {"train": str(DATA / "train.jsonl.gz"), "eval": str(DATA / "test.jsonl.gz"), "on_leak": "drop"},
        }  # fmt: skip
        luthier.compare(recipe, methods=given.methods, seeds=given.seeds, to=folder, console=Progress())
        for name in ("compare.json", "compare.html"):
            text = (folder / name).read_text(encoding="utf-8")  # without the paths of a machine
            text = text.replace(str(DATA.parents[2]), "..").replace(str(WORK), "runs")
            (OUT / name).write_text(text, encoding="utf-8")
    result = json.loads((OUT / "compare.json").read_text(encoding="utf-8"))
    (OUT / "compare.md").write_text(table(result), encoding="utf-8")


if __name__ == "__main__":
    main()
