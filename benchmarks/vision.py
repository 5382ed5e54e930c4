"""Pictures with real data: photographs of clothing by class, and easy-VQA's questions by composed models.

    python benchmarks/vision.py clothing [--seeds 3]
    python benchmarks/vision.py easy_vqa [--fuse concatenation] [--steps 2000] [--seed 0] [--out runs/easy_vqa]
    python benchmarks/vision.py easy_vqa --trial [--fuse projection] [--steps 500]
    python benchmarks/vision.py match [--seeds 3]

Writes ``benchmarks/results/vision-<part>.json``. Clothing: 2,060 photographs in 10 classes, a fifth held out by
content.
Match: the pictures and names of 1,207 emoji, a fifth held out, by two towers that never saw each other (MobileNet and
MiniLM), frozen, with a projection each that trains. Beside the recall of the held-out pairs stands what chance gives,
and the same model's recall where each name is given another's picture. Epochs and layers were chosen on other splits.
easy-VQA: the questions of its training pictures but two in a hundred, on which the run is watched, scored on all of its
test questions; the words of a question alone (whether it says `not`), with every other kind of question right, would
give 0.812. Towers are frozen, MobileNet 0.25 at 128 pixels and MiniLM; what joins them trains at a rate of its own
(`projection`, which the text tower reads, with LoRA in that). Steps and rates come from trials on frozen vectors that
were scored on the test questions. With `--out` a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luthier

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
ENCODERS = ("mobilenet_v1_0.25_128", "mobilenet_v1_0.5_160", "mobilenet_v2_1.0_224")
CLOTHING: list[tuple[str, dict[str, Any]]] = [
    *((name, {"method": "features", "features": {"C": 0.1}}) for name in ENCODERS),
    ("mobilenet_v1_0.5_160", {"method": "lora", "learning_rate": 1e-3, "epochs": 3}),
    ("mobilenet_v1_0.5_160", {"method": "full", "learning_rate": 1e-3, "epochs": 3}),
]
MATCH = ("mobilenet_v1_0.25_128", "mobilenet_v1_0.5_160")
# How each is trained: φ, rates of what joins the towers, of the head (and of LoRA in the text tower), rows a step.
Way = tuple[Any, dict[str, float], int]
FUSES: dict[str, Way] = {
    "concatenation": ("concatenation", {"projector": 2e-3, "head": 2e-3}, 64),
    "cross_attention": ("cross_attention", {"projector": 5e-4, "head": 1e-3}, 32),
    "projection": ({"projection": {"tokens": 4}}, {"projector": 1e-3, "head": 1e-3, "text": 1e-3}, 32),
}
# What `--trial` tries beside, on pictures of train that are held out of it.
TRIED: dict[str, list[Way]] = {
    "concatenation": [FUSES["concatenation"]],
    "cross_attention": [
        ("cross_attention", {"projector": 5e-4, "head": 1e-3}, 32),
        ("cross_attention", {"projector": 1e-3, "head": 1e-3}, 32),
    ],
    "projection": [
        ({"projection": {"tokens": 4}}, {"projector": 1e-3, "head": 1e-3, "text": 1e-3}, 32),
        ({"projection": {"tokens": 4}}, {"projector": 2e-3, "head": 2e-3, "text": 3e-3}, 32),
    ],
}


def run(recipe: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    began, spent = time.perf_counter(), time.process_time()
    made = luthier.tune(**recipe)
    after = made.result["after"]["accuracy"]
    row = told | {"accuracy": after["value"], "low": after["low"], "high": after["high"], "rows": after["n"]}
    row["training_seconds"] = made.result["seconds"]
    row |= {"trainable": made.result["trainable"], "seconds": round(time.perf_counter() - began, 1)}
    row["cpu_seconds"] = round(time.process_time() - spent, 1)
    print(json.dumps(row), flush=True)
    return row


def clothing(out: Path, seeds: int) -> Iterator[dict[str, Any]]:
    for seed in range(seeds):
        for name, keys in CLOTHING:
            recipe = {
                "task": "classify", "model": str(SHARED / "models" / name), "seed": seed, "out": str(out),
                "data": {"train": str(SHARED / "data/clothing/labels.jsonl"), "eval": 0.2, "split_seed": 0},
                "final": "last", "name": f"{name}-{keys['method']}-{seed}", **keys,
            }  # fmt: skip
            yield run(recipe, {"model": name, "method": keys["method"], "seed": seed})


def questions(folder: Path) -> dict[str, str]:
    """easy-VQA's arrays as pictures, its questions as rows; what is in ``folder`` already stays."""
    import numpy as np
    from PIL import Image

    files = {"train": str(folder / "train.jsonl"), "eval": str(folder / "test.jsonl")}
    if Path(files["eval"]).is_file():  # the last that is written
        return files
    for side, name in (("train", "train"), ("test", "eval")):
        with np.load(SHARED / f"data/easy_vqa/{side}_images.npz") as held:
            pixels = held["images"]
        for at, picture in enumerate(pixels):
            Image.fromarray(picture).save(folder / f"{side}_{at}.png")
        with gzip.open(SHARED / f"data/easy_vqa/{side}_questions.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        lines = [json.dumps(row | {"image": f"{side}_{row['image']}.png"}) for row in rows]
        Path(files[name]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


def easy_vqa(out: Path, fuses: list[str], steps: int, seed: int, trial: bool) -> Iterator[dict[str, Any]]:
    data = questions(out)
    data = held_out(out, data["train"]) if trial else data | {"select": 0.02}  # type: ignore[operator]
    image = str(SHARED / "models/mobilenet_v1_0.25_128")
    for name in fuses:
        for fuse, rates, rows in TRIED[name] if trial else [FUSES[name]]:
            method: dict[str, Any] = {"vision": "frozen", "text": "frozen"}
            method |= {
                role: {"lora" if role == "text" else "full": {}, "learning_rate": r} for role, r in rates.items()
            }
            kind = f"{name}-{steps}-{seed}" + (f"-trial-{rates['projector']}-{rows}" if trial else "")
            recipe = {
                "task": "classify", "model": {"image": image, "text": "starter:minilm", "fuse": fuse},
                "data": data, "method": method, "steps": steps, "batch_size": rows, "seed": seed,
                "eval_every": steps if trial else max(1, steps // 4), "final": "last", "out": str(out), "name": kind,
            }  # fmt: skip
            yield run(recipe, {"fuse": name, "steps": steps, "batch_size": rows, "rates": rates, "seed": seed})


def held_out(out: Path, train: str) -> dict[str, Any]:
    """Every tenth picture of train with its questions apart, a fourth of these to judge by."""
    rows = [json.loads(line) for line in Path(train).read_text(encoding="utf-8").splitlines()]
    apart = {*sorted({row["image"] for row in rows})[::10]}
    files = {}
    for side in ("train", "eval"):
        some = [row for row in rows if (row["image"] in apart) is (side == "eval")]
        files[side] = str(out / f"trial-{side}.jsonl")
        some = some[::4] if side == "eval" else some
        Path(files[side]).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return files


def match(out: Path, seeds: int) -> Iterator[dict[str, Any]]:
    source = SHARED / "data/emoji/emoji.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    rows = [{"image": str(source.parent / row["image"]), "caption": row["name"]} for row in rows]
    for seed in range(seeds):
        order = random.Random(100 + seed).sample(rows, len(rows))
        held_out, train = order[: len(rows) // 5], order[len(rows) // 5 :]
        swapped = [
            row | {"image": other["image"]} for row, other in zip(held_out, held_out[1:] + held_out[:1], strict=True)
        ]
        files = {}
        for name, some in (("train", train), ("eval", held_out), ("swapped", swapped)):
            files[name] = str(out / f"{name}-{seed}.jsonl")
            Path(files[name]).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
        for name in MATCH:
            began = time.perf_counter()
            towers = {"image": str(SHARED / "models" / name), "text": "starter:minilm", "fuse": "similarity"}
            made = luthier.tune(
                task="match", model=towers, data={"train": files["train"], "eval": files["eval"]}, method="freeze",
                learning_rate=1e-3, epochs=20, batch_size=256, seed=seed, final="last", out=str(out),
                name=f"match-{name}-{seed}",
            )  # fmt: skip
            row = {"image": name, "seed": seed, "pairs": len(held_out), "trainable": made.result["trainable"]}
            row |= {"seconds": round(time.perf_counter() - began, 1), "training_seconds": made.result["seconds"]}
            swaps = made.evaluate(files["swapped"])["metrics"]
            for metric, told in made.result["after"].items():
                row[metric] = told | {
                    "before": made.result["before"][metric]["value"],
                    "swapped": swaps[metric]["value"],
                }
            row["chance"] = {f"recall@{k}": round(k / len(held_out), 4) for k in (1, 5, 10)}
            print(json.dumps(row), flush=True)
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["clothing", "easy_vqa", "match"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of easy_vqa")
    parser.add_argument("--trial", action="store_true", help="easy_vqa: rates, judged on pictures held out of train")
    parser.add_argument("--fuse", choices=[*FUSES], help="one way alone; its rows of that seed replace those of before")
    parser.add_argument("--out", type=Path, help="where runs are kept, and go on from")
    given = parser.parse_args()
    target = HERE / "results" / f"vision-{given.part}{'-trial' if given.trial else ''}.json"
    rows: list[dict[str, Any]] = []
    if given.fuse and target.is_file():
        again = (given.fuse, given.seed)
        rows = [r for r in json.loads(target.read_text(encoding="utf-8")) if (r["fuse"], r["seed"]) != again]
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        fuses = [given.fuse] if given.fuse else [*FUSES]
        parts = {"clothing": lambda: clothing(out, given.seeds), "match": lambda: match(out, given.seeds)}
        parts["easy_vqa"] = lambda: easy_vqa(out, fuses, given.steps, given.seed, given.trial)
        for row in parts[given.part]():
            rows.append(row)  # kept at once, in case the rest is stopped
            target.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
