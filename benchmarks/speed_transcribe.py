"""Transcripts by CTC in one run: Luthier's `transcribe` beside a plain loop on transformers' own model and loss.

    python benchmarks/speed_transcribe.py [--rounds 2]     # results/speed_transcribe.md and .json

`starter:ears` (a Wav2Vec2-BERT of two layers of width 64) with the same random weights on both sides learns the same 32
of the 40 recordings of yes_no, four a step in the same order, 320 steps: AdamW (fused), 2e-3 with linear decay, no
weight decay, clipping at 1, fp32. The peer is `Wav2Vec2BertForCTC` with `ctc_loss_reduction: sum`, over the letters of
a step as Luthier's; transformers' own `mean`, each row by its letters, is another loss. Its masks are off. Both have
made the features of every recording beforehand, by transformers' extractor; the peer pads them in memory, where Luthier
reads them from its file. Each side in a process of its own, in turn; the median time of a step after the first, peak
memory above the loaded model. At the end transformers' model with the weights of either side writes the 8 recordings
held out, one by one, on the best path; jiwer counts. Losses are compared over the first 50 steps: later, what rounds
differently has grown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
SET = HERE.parents[1] / "shared" / "data" / "yes_no"
EARS = HERE.parent / "src/luthier/starter/ears"
BATCH, STEPS, RATE, HELD_OUT, EARLY = 4, 320, 2e-3, 8, 50
Told = dict[str, Any]


def prepare(folder: Path) -> None:
    """The start for both, and the rows: recordings learned, recordings held out, and the rows of each step."""
    from luthier.data.media.spoken import words
    from luthier.engine.batching import Order
    from luthier.models.load import load

    lines = (SET / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{"audio": str(SET / row["audio"]), "text": words(row["text"])} for row in map(json.loads, lines)]
    rows = random.Random(0).sample(rows, len(rows))
    learned, held_out = rows[HELD_OUT:], rows[:HELD_OUT]
    letters = sorted({letter for row in learned for letter in row["text"]})
    start = load("ears", str(EARS), "frame_logits", init="random", seed=0, config={"letters": letters})
    start.model.save_pretrained(folder / "model")
    start.save_readers(folder / "model")
    order = Order(len(learned), BATCH, 0, "benchmark")
    samples = [start.sounds.samples(Path(row["audio"])) for row in rows]
    told = {
        "learned": learned, "held_out": held_out, "steps": [order.step(step) for step in range(STEPS)],
        "samples": [torch.as_tensor(one) for one in samples[HELD_OUT:] + samples[:HELD_OUT]], "rate": start.sounds.rate,
    }  # fmt: skip
    torch.save(told, folder / "rows.pt")


def run_luthier(folder: Path, told: Told) -> tuple[list[list[float]], int, Any]:
    from luthier.engine.fit import fit
    from luthier.engine.parallel import Processes
    from luthier.engine.plan import Plan
    from luthier.engine.precision import choose_matmul
    from luthier.methods import METHODS
    from luthier.models.load import load
    from luthier.objectives.ctc import Objective, Options
    from luthier.tasks import transcribe
    from luthier.types import INLINE, Example
    from speed import Memory

    backbone = load("model", str(folder / "model"), "frame_logits")
    backbone.choose_layout("auto")
    method = METHODS.load("full")
    adaptation = method.adapt(backbone, method.Options())
    objective = Objective(Options(), backbone, transcribe.Task(transcribe.Options()).encoder(backbone, 10**6, "error"))
    examples = [Example(INLINE, sounds=[Path(row["audio"])], targets=[row["text"]]) for row in told["learned"]]
    rows = [row | {"row": i} for i, example in enumerate(examples) for row in objective.encode(example)]
    matmul, _ = choose_matmul("auto", torch.device("cpu"))
    plan = Plan(
        steps=STEPS, batch_size=BATCH, learning_rate=RATE, schedule="linear", warmup=0, weight_decay=0.0,
        max_grad_norm=1.0, micro_tokens=4096, eval_every=10**9, save_every=10**9, patience=None, keep=1, seed=0,
        metric="loss", higher_is_better=False, precision="fp32", matmul=matmul, recipe_hash="benchmark",
        data_hash="benchmark", final="last",
    )  # fmt: skip
    records: list[list[float]] = []
    memory, began, cpu = Memory(), time.perf_counter(), time.process_time()

    def emit(record: dict[str, Any]) -> None:
        records.append([record["loss"], time.perf_counter() - began, time.process_time() - cpu])

    fit(
        backbone, adaptation, objective, rows, plan, evaluate=None, emit=emit, processes=Processes(),
        folder=folder / "run",
    )  # fmt: skip
    return records, memory.peak(), backbone.model


def run_transformers(folder: Path, told: Told) -> tuple[list[list[float]], int, Any]:
    from transformers import AutoFeatureExtractor, AutoTokenizer, Wav2Vec2BertForCTC

    from speed import Memory

    model: Any = Wav2Vec2BertForCTC.from_pretrained(
        folder / "model", ctc_loss_reduction="sum", apply_spec_augment=False
    )
    extractor, letters = (auto.from_pretrained(folder / "model") for auto in (AutoFeatureExtractor, AutoTokenizer))
    features = [features_of(extractor, one, told["rate"]) for one in told["samples"]]
    labels = [letters(row["text"])["input_ids"] for row in told["learned"]]
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=RATE, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    records: list[list[float]] = []
    memory, began, cpu = Memory(), time.perf_counter(), time.process_time()
    for rows in told["steps"]:
        inputs = extractor.pad([{"input_features": features[i]} for i in rows], padding=True, return_tensors="pt")
        longest = max(len(labels[i]) for i in rows)
        wanted = torch.tensor([labels[i] + [-100] * (longest - len(labels[i])) for i in rows])
        loss = model(**inputs, labels=wanted).loss / (wanted >= 0).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        records.append([float(loss.detach()), time.perf_counter() - began, time.process_time() - cpu])
    return records, memory.peak(), model


def features_of(extractor: Any, samples: torch.Tensor, rate: int) -> Any:
    """(steps, bands), without the last step where the extractor's own mask says that half of it is padding."""
    made = extractor(samples.numpy(), sampling_rate=rate, return_tensors="np")
    return made["input_features"][0, : int(made["attention_mask"][0].sum())]


def errors(folder: Path, told: Told, model: Any) -> dict[str, float]:
    """Word and letter error rate of the recordings held out, by transformers alone."""
    import jiwer
    from transformers import AutoFeatureExtractor, AutoTokenizer

    extractor, letters = (auto.from_pretrained(folder / "model") for auto in (AutoFeatureExtractor, AutoTokenizer))
    written = []
    model.eval()
    for samples in told["samples"][-HELD_OUT:]:
        inputs = torch.as_tensor(features_of(extractor, samples, told["rate"]))[None]
        with torch.no_grad():
            written.append(letters.decode(model(input_features=inputs).logits[0].argmax(-1).tolist()))
    said = [row["text"] for row in told["held_out"]]
    return {"wer": jiwer.wer(said, written), "cer": jiwer.cer(said, written)}


RUNS = {"luthier": run_luthier, "transformers": run_transformers}


def one(variant: str, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    told = torch.load(folder / "rows.pt", weights_only=True)
    records, memory, model = RUNS[variant](folder, told)
    losses, walls, cpus = zip(*records, strict=True)
    steps = {"wall_ms": walls, "cpu_ms": cpus}
    medians = {name: 1000 * statistics.median(b - a for a, b in pairwise(at)) for name, at in steps.items()}
    return {"losses": losses, **medians, "cpu_s": cpus[-1], "memory_mb": memory, **errors(folder, told, model)}


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """A row a side; how far losses are apart, relative to the peer's, in the first steps and at the end."""
    mine, peer = (runs[name][0]["losses"] for name in ("luthier", "transformers"))
    apart = max(abs(a - b) / b for a, b in zip(mine[:EARLY], peer[:EARLY], strict=True))
    ends = [sum(losses[-EARLY:]) / EARLY for losses in (mine, peer)]
    lines = [
        f"| | a step, processor time | wall time | peak above model | loss, last {EARLY} steps | WER | CER |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, end in zip(("luthier", "transformers"), ends, strict=True):
        cpu, wall, memory = (
            statistics.median(r[key] for r in runs[name]) for key in ("cpu_ms", "wall_ms", "memory_mb")
        )
        first = runs[name][0]
        cells = (f"{cpu:.0f} ms", f"{wall:.0f} ms", f"{memory:.0f} MB", f"{end:.4f}", f"{first['wer']:.3f}")
        lines.append("| " + " | ".join((name, *cells, f"{first['cer']:.3f}")) + " |")
    pairs = list(zip(runs["transformers"], runs["luthier"], strict=True))
    faster = statistics.median(theirs["cpu_ms"] / ours["cpu_ms"] for theirs, ours in pairs)
    told = (
        f"Luthier is faster by {faster:.2f} in processor time" if apart <= 1e-4 else "Losses differ: no speed is told"
    )
    return "\n".join([*lines, "", f"{told}. Losses of the first {EARLY} steps are apart by {apart:.1e} at most."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print("\n" + json.dumps(one(given.one[0], Path(given.one[1]))))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for _ in range(given.rounds):
            for name in RUNS:
                environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads), "TOKENIZERS_PARALLELISM": "false"}
                command = [sys.executable, __file__, "--one", name, folder]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
                runs[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    path = HERE / "results" / "speed_transcribe.json"
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    told = {"versions": versions, "threads": given.threads, "load_at_end": os.getloadavg()[0], "runs": runs}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table(runs) + "\n", encoding="utf-8")
    print(table(runs))


if __name__ == "__main__":
    main()
