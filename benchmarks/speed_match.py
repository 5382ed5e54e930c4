"""Speed and memory of training CLIP, in one run: Luthier's `match`, a plain loop on transformers' CLIPModel, open_clip.

    python benchmarks/speed_match.py [clip_32] [--rounds 2] [--open-clip PYTHON]

`PYTHON` is an interpreter of an environment with open_clip_torch; without one open_clip is left out. Everyone begins
with the same weights (CLIP of four layers and width 256 on both sides, 224 pixels in patches of 32, vocabulary 30,522,
random; open_clip's own model, its weights copied from transformers') and sees the same rows in the same order: pictures
of emoji with name and keywords. AdamW (fused), 1e-5, no decay, clipping at 1, fp32. The peers have their pixels ready
in memory, where Luthier reads them from its file and normalises them in each step; decoding counts on no side. Texts
are padded as each does: open_clip to 77 places, the others to the longest of a batch.

`clip_32` is a step of 32 rows in one go, `clip_128` one of 128: Luthier with gradient caching in micro-batches,
open_clip with its own (`accum_freq` of 4, its loop step by step), transformers in one go, as it has no other way to
that loss. Every variant in a process of its own, in turn; the median time of a step after the first, and the peak of
resident memory above the loaded model. Where a loss differs by more than 1e-4 no speed is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
TOLERANCE, RATE, WARM = 1e-4, 1e-5, 1
LAYERS, WIDTH, HEADS, SPACE, PLACES = 4, 256, 4, 128, 77
CELLS: dict[str, dict[str, int]] = {
    "clip_32": {"batch": 32, "steps": 6, "micro_tokens": 8192, "parts": 1},
    "clip_128": {"batch": 128, "steps": 3, "micro_tokens": 2600, "parts": 4},
}
NAMES = {"luthier": "Luthier", "transformers": "transformers, plain loop", "open_clip": "open_clip"}
Record = tuple[float, float, float]


def prepare(folder: Path, cell: dict[str, int]) -> None:
    """The model, and what the rows are, for everyone: captions, and ids and pixels as transformers makes them."""
    import transformers

    from luthier.data.media.pictures import decode
    from luthier.engine.batching import Order
    from side_by_side import starter

    words = transformers.AutoTokenizer.from_pretrained(starter())
    words.model_max_length = PLACES
    torch.manual_seed(0)
    tower = {
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH,
    }  # fmt: skip
    ids = {"bos_token_id": words.cls_token_id, "eos_token_id": words.sep_token_id, "pad_token_id": words.pad_token_id}
    text = tower | ids | {"vocab_size": len(words), "max_position_embeddings": PLACES}
    vision = tower | {"image_size": 224, "patch_size": 32}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=SPACE)
    transformers.CLIPModel(config).save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")
    (processor := transformers.CLIPImageProcessor()).save_pretrained(folder / "model")
    source = SHARED / "data/emoji/emoji.jsonl"
    lines = source.read_text(encoding="utf-8").splitlines()[: cell["batch"] * cell["steps"]]
    rows = [json.loads(line) for line in lines]
    paths = [source.parent / row["image"] for row in rows]
    captions = [f"{row['name']}: {', '.join(row['keywords'])}" for row in rows]
    pixels = torch.cat(
        [torch.as_tensor(processor(decode(path)[0], return_tensors="pt")["pixel_values"]) for path in paths]
    )
    order = Order(len(rows), cell["batch"], 0, "benchmark")
    told = {
        "rows": [{"image": str(path), "caption": said} for path, said in zip(paths, captions, strict=True)],
        "ids": words(captions, truncation=True)["input_ids"], "pixels": pixels,
        "steps": [order.step(step) for step in range(cell["steps"])], "eos": words.sep_token_id,
    }  # fmt: skip
    torch.save(told, folder / "rows.pt")


def run_luthier(folder: Path, cell: dict[str, int], told: dict[str, Any]) -> dict[str, Any]:
    from luthier.engine.fit import fit
    from luthier.engine.parallel import Processes
    from luthier.engine.plan import Plan
    from luthier.engine.precision import choose_matmul
    from luthier.methods import METHODS
    from luthier.models.load import load
    from luthier.objectives.image_text import Objective, Options
    from luthier.tasks import match
    from luthier.types import INLINE, Example
    from speed import Memory

    backbone = load("model", str(folder / "model"), "vectors")
    backbone.choose_layout("on")
    method = METHODS.load("full")
    adaptation = method.adapt(backbone, method.Options())
    objective = Objective(Options(), backbone, match.Task(match.Options()).encoder(backbone, PLACES, "truncate"))
    examples = [Example(INLINE, images=[Path(row["image"])], targets=[row["caption"]]) for row in told["rows"]]
    rows = [row | {"row": i} for i, example in enumerate(examples) for row in objective.encode(example)]
    matmul, _ = choose_matmul("auto", torch.device("cpu"))
    plan = Plan(
        steps=cell["steps"], batch_size=cell["batch"], learning_rate=RATE, schedule="constant", warmup=0,
        weight_decay=0.0, max_grad_norm=1.0, micro_tokens=cell["micro_tokens"], eval_every=10**9, save_every=10**9,
        patience=None, keep=1, seed=0, metric="loss", higher_is_better=False, precision="fp32", matmul=matmul,
        recipe_hash="benchmark", data_hash="benchmark", final="last",
    )  # fmt: skip
    records: list[Record] = []
    memory, began, cpu = Memory(), time.perf_counter(), time.process_time()

    def emit(record: dict[str, Any]) -> None:
        records.append((record["loss"], time.perf_counter() - began, time.process_time() - cpu))

    fit(
        backbone, adaptation, objective, rows, plan, evaluate=None, emit=emit, processes=Processes(),
        folder=folder / "run",
    )  # fmt: skip
    return summed(records, memory)


def run_transformers(folder: Path, cell: dict[str, int], told: dict[str, Any]) -> dict[str, Any]:
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(folder / "model").train()

    def gradient(rows: list[int]) -> float:
        ids, mask = padded([told["ids"][i] for i in rows], None)
        pixels = told["pixels"][rows]
        loss = model(input_ids=ids, attention_mask=mask, pixel_values=pixels, return_loss=True).loss
        loss.backward()
        return float(loss.detach())

    return loop(model, model.logit_scale, gradient, told)


def run_open_clip(folder: Path, cell: dict[str, int], told: dict[str, Any]) -> dict[str, Any]:
    """Its own model and loss, and `accum_freq` as its `train_one_epoch` goes about it."""
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from transformers import CLIPModel

    from open_clip_names import renamed

    theirs = CLIPModel.from_pretrained(folder / "model")
    vision = CLIPVisionCfg(layers=LAYERS, width=WIDTH, head_width=WIDTH // HEADS, patch_size=32, image_size=224)
    text = CLIPTextCfg(
        context_length=PLACES, vocab_size=theirs.config.text_config.vocab_size, width=WIDTH, heads=HEADS, layers=LAYERS,
        pool_type="eos", eos_id=told["eos"],
    )  # fmt: skip
    model = CLIP(SPACE, vision, text, quick_gelu=True, output_dict=True).train()
    model.load_state_dict(renamed(theirs.state_dict(), LAYERS), strict=False)
    del theirs
    measure = ClipLoss()

    def features(rows: list[int]) -> dict[str, torch.Tensor]:
        ids, _ = padded([told["ids"][i] for i in rows], PLACES)
        return model(told["pixels"][rows], ids)

    def gradient(rows: list[int]) -> float:
        parts = cell["parts"]
        size = len(rows) // parts
        if parts == 1:
            loss = measure(**features(rows), output_dict=True)["contrastive_loss"]
            loss.backward()
            return float(loss.detach())
        cut = [rows[i * size : (i + 1) * size] for i in range(parts)]
        with torch.no_grad():
            kept = [features(some) for some in cut]
        for at, some in enumerate(cut):
            made = features(some)
            beside = {
                name: torch.cat([*(k[name] for k in kept[:at]), made[name], *(k[name] for k in kept[at + 1 :])])
                for name in ("image_features", "text_features")
            }
            loss = measure(**beside, logit_scale=made["logit_scale"], output_dict=True)["contrastive_loss"]
            loss.backward()
        return float(loss.detach())

    return loop(model, model.logit_scale, gradient, told)


def padded(ids: list[list[int]], length: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    longest = length or max(len(row) for row in ids)
    made, mask = torch.zeros(len(ids), longest, dtype=torch.long), torch.zeros(len(ids), longest, dtype=torch.long)
    for row, (given, own) in enumerate(zip(ids, made, strict=True)):
        own[: len(given)] = torch.tensor(given)
        mask[row, : len(given)] = 1
    return made, mask


def loop(
    model: nn.Module, scale: nn.Parameter, gradient: Callable[[list[int]], float], told: dict[str, Any]
) -> dict[str, Any]:
    from speed import Memory

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    records: list[Record] = []
    memory, began, cpu = Memory(), time.perf_counter(), time.process_time()
    for rows in told["steps"]:
        optimizer.zero_grad()
        loss = gradient(rows)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            scale.clamp_(0, 4.6052)
        records.append((loss, time.perf_counter() - began, time.process_time() - cpu))
    return summed(records, memory)


def summed(records: list[Record], memory: Any) -> dict[str, Any]:
    walls, cpus = (
        [b - a for a, b in zip([0.0, *t[:-1]], t, strict=True)] for t in list(zip(*records, strict=True))[1:]
    )
    return {
        "losses": [loss for loss, _, _ in records],
        "wall_ms": 1000 * statistics.median(walls[WARM:]),
        "cpu_ms": 1000 * statistics.median(cpus[WARM:]),
        "memory_mb": memory.peak(),
    }


RUNS = {"luthier": run_luthier, "transformers": run_transformers, "open_clip": run_open_clip}


def measure(name: str, rounds: int, threads: int, pythons: dict[str, str]) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in pythons}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), CELLS[name])
        for _ in range(rounds):
            for variant, python in pythons.items():
                environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
                command = [python, __file__, "--one", name, variant, folder]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{name} {variant} failed:\n{done.stderr[-3000:]}")
                runs[variant].append(json.loads(done.stdout.strip().splitlines()[-1]))
    return {"cell": name, "threads": threads, "runs": runs}


def table(cells: list[dict[str, Any]]) -> str:
    lines = [
        "| cell | | step | Luthier is faster by | in wall time | peak above model | its share | losses apart |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for found in cells:
        ours = found["runs"]["luthier"]
        for variant, theirs in found["runs"].items():
            pairs = list(zip(theirs, ours, strict=True))
            apart = max(abs(a - b) / abs(a) for a, b in zip(theirs[0]["losses"], ours[0]["losses"], strict=True))
            speed, wall = (statistics.median(t[key] / o[key] for t, o in pairs) for key in ("cpu_ms", "wall_ms"))
            told = (f"{speed:.2f}", f"{wall:.2f}") if apart <= TOLERANCE else ("losses differ", "–")
            size = statistics.median(run["memory_mb"] for run in theirs)
            share = statistics.median(o["memory_mb"] / t["memory_mb"] for t, o in pairs)
            step = statistics.median(run["cpu_ms"] for run in theirs)
            parts = [
                found["cell"],
                NAMES[variant],
                f"{step:.0f} ms",
                *told,
                f"{size:.0f} MB",
                f"{share:.2f}",
                f"{apart:.1e}",
            ]
            lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--open-clip", help="a Python with open_clip_torch")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        name, variant, folder = given.one
        told = torch.load(Path(folder) / "rows.pt", weights_only=True)
        print("\n" + json.dumps(RUNS[variant](Path(folder), CELLS[name], told)))
        return
    pythons = {"luthier": sys.executable, "transformers": sys.executable}
    pythons |= {"open_clip": given.open_clip} if given.open_clip else {}
    path = HERE / "results" / "speed_match.json"
    kept = {found["cell"]: found for found in json.loads(path.read_text())["cells"]} if path.is_file() else {}
    for name in given.cells or CELLS:
        kept[name] = measure(name, given.rounds, given.threads, pythons) | {"load_at_end": os.getloadavg()[0]}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    cells = [kept[name] for name in CELLS if name in kept]
    path.write_text(json.dumps({"versions": versions, "cells": cells}, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(cells) + "\n")
    print(table(cells))


if __name__ == "__main__":
    main()
