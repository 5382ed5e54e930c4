"""Quality, side by side: Luthier against transformers.Trainer + PEFT (and scikit-learn), on real data and real weights.

    python benchmarks/quality.py --part A --seeds 3            # rt_polarity: features, lora, full
    python benchmarks/quality.py --part B --seeds 1            # clinc150, 150 intents and "oos": features, lora
    python benchmarks/quality.py --part C                      # stories260k: the same batches, the losses step by step
    python benchmarks/quality.py --part rates                  # learning rates, judged on rows split off train
    python benchmarks/quality.py --table                       # the tables of what was measured, nothing run

Parts A and B: same rows, steps, batch size, learning rate, schedule, weight decay, clipping, dropout and LoRA layers;
each side draws its own order of rows. Part C: the peer is fed the very batches of Luthier, in fp32. Each cell runs in a
process of its own and is kept in benchmarks/results/quality_<part>.json when it ends: started again, what is there is
not measured again.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from quality_peers import (
    BATCH,
    HERE,
    SHARED,
    STORIES,
    WEIGHT_DECAY,
    Cell,
    files,
    peer_classifier,
    peer_features,
    peer_stream,
)  # fmt: skip

RESULTS = HERE / "results"
LOCK = threading.Lock()
RATES = {"lora": 5e-4, "full": 5e-5}  # the same for both sides; see part `rates`
TRAINED = {  # data, methods, epochs
    "A": ("rt_polarity", ["lora", "full"], 3),
    "A1": ("rt_polarity", ["lora", "full"], 1),
    "B": ("clinc150", ["lora"], 1),
}
TRIED = [("lora", 5e-4), ("full", 5e-5), ("lora", 1e-3), ("full", 1e-4), ("lora", 2e-3)]
STREAMS = {
    "tinyshakespeare": {"task": "complete", "path": "tinyshakespeare/input.txt.gz", "batch": 8, "steps": 200},
    "gpteacher_codegen": {"task": "chat", "path": "gpteacher_codegen/codegen.jsonl.gz", "batch": 8, "steps": 200},
}
STREAM_RATES = {"full": 5e-4, "lora": 2e-3}


def cells(part: str, seeds: int) -> list[Cell]:
    """Luthier's cells of all seeds first, then the peer's."""
    if part == "rates":
        return [Cell("rates", "rt_polarity", method, "luthier", 0, rate, 3, "train") for method, rate in TRIED]
    if part == "C":
        streams = [("tinyshakespeare", "full"), ("gpteacher_codegen", "full"), ("gpteacher_codegen", "lora")]
        return [Cell("C", data, method, "both", 0, STREAM_RATES[method]) for data, method in streams]
    data, methods, epochs = TRAINED[part]
    sides = ("luthier", "peer")
    trained = [
        Cell(part, data, m, side, seed, RATES[m], epochs) for side in sides for seed in range(seeds) for m in methods
    ]
    return trained if part == "A1" else [*trained, *(Cell(part, data, "features", side) for side in sides)]


# Luthier, through its public interface --------------------------------------------------------------------------------


def luthier_classifier(cell: Cell) -> dict[str, Any]:
    import luthier

    train, test = files(cell.data)
    rows: dict[str, Any] = {"train": train, "eval": 0.1}
    if cell.held_out == "test":
        rows = {"train": train, "eval": test, "on_leak": "drop"}
    settings: dict[str, Any] = {}
    if cell.method != "features":
        settings = {"learning_rate": cell.rate, "warmup": 0.0, "weight_decay": WEIGHT_DECAY, "epochs": cell.epochs}
        settings |= {"final": "last", "eval_every": 10**6, "precision": "fp32"}
    with tempfile.TemporaryDirectory() as out:
        run = luthier.tune(
            task="classify", model="starter:minilm", data=rows, method=cell.method, batch_size=BATCH, seed=cell.seed,
            out=out, **settings,
        )  # fmt: skip
        found = run.result
    accuracy = found["after"]["accuracy"]
    return {
        "accuracy": accuracy["value"] if isinstance(accuracy, dict) else accuracy, "steps": found["steps"],
        "trainable": found["trainable"], "train_rows": found["data"]["train"]["used"],
        "test_rows": found["data"]["eval"]["used"], "train_s": found["seconds"],
    }  # fmt: skip


def luthier_stream(cell: Cell, out: str) -> tuple[list[float], list[list[dict[str, Any]]], float]:
    """Luthier's loss of each step, the rows of each step, and its seconds."""
    import luthier
    from luthier import check
    from luthier.engine.batching import Order
    from luthier.engine.cache import rows_hash

    stream = STREAMS[cell.data]
    path = str(SHARED / "data" / stream["path"])
    recipe = {
        "task": stream["task"], "model": {"name": str(STORIES)}, "data": {"train": path, "eval": 0.0},
        "method": cell.method, "batch_size": stream["batch"], "steps": stream["steps"], "learning_rate": cell.rate,
        "warmup": 0.0, "weight_decay": WEIGHT_DECAY, "precision": "fp32", "seed": cell.seed, "out": out,
    }  # fmt: skip
    if stream["task"] == "chat":
        recipe["model"]["template"] = "plain"
        recipe["overlong"] = "drop"
    findings, prepared = check(recipe)
    if prepared is None:
        raise SystemExit("\n".join(map(str, findings)))
    rows = prepared.train.rows
    order = Order(len(rows), stream["batch"], cell.seed, rows_hash(rows))
    run = luthier.tune(recipe)
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    return losses, [[rows[i] for i in order.step(step)] for step in range(stream["steps"])], run.result["seconds"]


def stream_pair(cell: Cell) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as out:
        ours, batches, seconds = luthier_stream(cell, out)
    theirs, peer_seconds = peer_stream(cell, batches)
    apart = [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]
    return {
        "steps": len(ours), "largest_relative_difference": max(apart), "at_step": apart.index(max(apart)) + 1,
        "luthier_train_s": seconds, "peer_train_s": round(peer_seconds, 2), "luthier": ours, "peer": theirs,
    }  # fmt: skip


# Running cells, and telling -------------------------------------------------------------------------------------------


def measure(cell: Cell) -> dict[str, Any]:
    """A cell in this process."""
    import torch
    import transformers

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    transformers.logging.set_verbosity_error()
    began = time.perf_counter()
    if cell.part == "C":
        found = stream_pair(cell)
    elif cell.side == "luthier":
        found = luthier_classifier(cell)
    else:
        found = peer_features(cell) if cell.method == "features" else peer_classifier(cell)
    packages = ("torch", "transformers", "peft", "scikit-learn", "luthier")
    return found | {
        "cell_s": round(time.perf_counter() - began, 1), "cell_cpu_s": round(time.process_time(), 1),
        "threads": torch.get_num_threads(), "cores": os.cpu_count(), "commit": commit(),
        "load": round(os.getloadavg()[0], 1), "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }  # fmt: skip


def commit() -> str:
    """The sources that were measured; "-dirty" where they differ from that commit."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip() or "unknown"


def in_process(cell: Cell, threads: int) -> dict[str, Any]:
    """A cell in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, "--one", json.dumps(asdict(cell))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{cell.key} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def kept(part: str) -> dict[str, Any]:
    path = RESULTS / f"quality_{part}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def run_part(part: str, seeds: int, only: str, workers: int, threads: int) -> None:
    results = kept(part)
    todo = [cell for cell in cells(part, seeds) if cell.key not in results and only in cell.key]
    missing = [str(path) for path in (SHARED / "data", STORIES) if not path.is_dir()]
    if missing and todo:
        print(f"part {part} skipped: missing {', '.join(missing)}")
        return
    RESULTS.mkdir(exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda cell: keep(cell, threads), todo))


def keep(cell: Cell, threads: int) -> None:
    """Measure a cell, add it to its part's file at once, and say so."""
    found = in_process(cell, threads)
    with LOCK:
        path = RESULTS / f"quality_{cell.part}.json"
        path.write_text(json.dumps(kept(cell.part) | {cell.key: asdict(cell) | found}, indent=1), encoding="utf-8")
    shown = {name: value for name, value in found.items() if not isinstance(value, list | dict)}
    print(f"{cell.part} {cell.key}: {json.dumps(shown)}", flush=True)


# Tables ---------------------------------------------------------------------------------------------------------------

TITLES = {
    "A": "rt_polarity: accuracy on 1,000 test rows, three epochs",
    "A1": "rt_polarity: the same with one epoch",
    "B": "clinc150 (150 intents and oos): accuracy on 5,500 test rows, one epoch",
    "C": "stories260k: the same batches, fp32",
    "rates": "Learning rates, judged on a tenth of rt_polarity's train rows (seed 0)",
}


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})" if values else "–"


def seconds(values: list[float]) -> str:
    return f"{statistics.mean(values):.0f} s" if values else "–"


def classified(results: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["method", "seeds", "steps", "Luthier: mean (min to max)", "peer: mean (min to max)", "Luthier trains in",
             "peer trains in", "processor time of a cell: Luthier / peer"]]  # fmt: skip
    for method in dict.fromkeys(cell["method"] for cell in results):
        sides = [[c for c in results if c["method"] == method and c["side"] == side] for side in ("luthier", "peer")]
        seeds = " / ".join(str(len(side)) for side in sides)
        accuracy = [spread([c["accuracy"] for c in side]) for side in sides]
        steps = str(max(c["steps"] for side in sides for c in side))
        trained = [seconds([c["train_s"] for c in side]) for side in sides]
        cpu = " / ".join(seconds([c["cell_cpu_s"] for c in side if "cell_cpu_s" in c]) for side in sides)
        rows.append([method, seeds, steps, *accuracy, *trained, cpu])
    return rows


def rated(results: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["method", "learning rate", "accuracy"]]
    return rows + [[c["method"], f"{c['rate']:g}", f"{c['accuracy']:.4f}"] for c in results]


def streamed(results: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["rows", "method", "steps", "Luthier's loss, first and last 10 steps", "the peer's",
             "largest relative difference of a step", "Luthier trains in", "peer trains in"]]  # fmt: skip
    for c in results:
        fall = [f"{statistics.mean(c[s][:10]):.4f} → {statistics.mean(c[s][-10:]):.4f}" for s in ("luthier", "peer")]
        times = [seconds([c["luthier_train_s"]]), seconds([c["peer_train_s"]])]
        rows.append([c["data"], c["method"], str(c["steps"]), *fall, f"{c['largest_relative_difference']:.1e}", *times])
    return rows


def tables() -> str:
    parts = []
    for part, title in TITLES.items():
        results = list(kept(part).values())
        if not results:
            continue
        head, *rows = {"C": streamed, "rates": rated}.get(part, classified)(results)
        lines = [head, ["---"] * len(head), *rows]
        made = sorted({f"{name} {number}" for c in results for name, number in c["versions"].items()})
        threads = sorted({c["threads"] for c in results})
        loads = [c["load"] for c in results]
        foot = f"{', '.join(made)}; {', '.join(map(str, threads))} thread(s) a process, {results[0]['cores']} cores, "
        foot += f"load {min(loads)} to {max(loads)} (above the number of cores, wall times say little)."
        parts.append(f"### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{foot}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=list(TITLES), help="default: A, A1, B and C")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="only cells whose name holds this, such as `lora / luthier`")
    parser.add_argument("--workers", type=int, default=1, help="cells measured at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each cell")
    parser.add_argument("--table", action="store_true", help="only print the tables of what was measured")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        found = measure(Cell(**json.loads(given.one)))
        print("\n" + json.dumps(found))
        return
    if given.table:
        print(tables() or "nothing was measured yet")
        return
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second measurement waits, and then finds what the first one measured
        for part in given.part or ["A", "A1", "B", "C"]:
            run_part(part, given.seeds, given.only, given.workers, given.threads)
    text = tables()
    if text:
        (RESULTS / "quality.md").write_text(text, encoding="utf-8")
    print(text or "nothing was measured yet")


if __name__ == "__main__":
    main()
