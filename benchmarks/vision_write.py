"""Pictures with a model that writes: the starter language model composed with a MobileNet, on real data.

    python benchmarks/vision_write.py easy_vqa --out FOLDER [--fuse projection] [--steps 2000]
    python benchmarks/vision_write.py nlvr --out FOLDER --fuse projection --steps 60
    python benchmarks/vision_write.py coco_captions --out FOLDER --steps 60
    python benchmarks/vision_write.py vqa_rad --out FOLDER --steps 80

Adds a row to ``benchmarks/results/vision_write-<part>.json``; a run that was stopped goes on where it was in FOLDER.
Answers are written, greedily, and count where they are the right one word for word. easy-VQA: all training questions,
scored on all test questions; pictures of 64 pixels are enlarged to 128, where the encoder's own processor would cut
their borders away. The image tower is frozen, what joins it to the decoder trains whole, and the decoder by LoRA, each
at a rate of its own (those of `vision.py`; no trial was made). Beside it stands the score on every tenth question with
its picture exchanged for the next one. The others are smoke runs by `full`, of a model that never saw a photograph
described: NLVR's 1,978 statements about drawn pictures, true or false, split by picture; VQA-RAD's 1,620 questions;
COCO's captions of 51 photographs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import time
from pathlib import Path
from typing import Any

import luthier
from vision import SHARED, questions

HERE = Path(__file__).resolve().parent
FUSES: dict[str, Any] = {
    "cross_attention": "cross_attention", "projection": "projection",
    "concatenation": {"concatenation": {"when": "early"}},
}  # fmt: skip
RATES = {"cross_attention": 5e-4, "projection": 1e-3, "concatenation": 2e-3}
"""Of what joins the towers, on easy-VQA; of the decoder's LoRA it is 1e-3."""


def encoder(out: Path, side: int) -> str:
    """MobileNet with a processor for pictures of ``side`` pixels that cuts nothing off."""
    folder = out / f"mobilenet-{side}"
    if not folder.is_dir():
        shutil.copytree(SHARED / "models/mobilenet_v1_0.25_128", folder)
        told = json.loads((folder / "preprocessor_config.json").read_text())
        told |= {"size": {"height": side, "width": side}, "do_center_crop": False}
        (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return str(folder)


def run(recipe: dict[str, Any], told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    spent = time.process_time()
    made = luthier.tune(**recipe)
    row = told | {name: value for name, value in made.result["after"].items() if name != "perplexity"}
    row |= {"trainable": made.result["trainable"], "seconds": made.result["seconds"]}
    row["cpu_seconds"] = round(time.process_time() - spent, 1)
    return made, row


def easy_vqa(out: Path, fuse: str, steps: int) -> dict[str, Any]:
    files = questions(out)
    rows = [json.loads(line) for line in Path(files["eval"]).read_text(encoding="utf-8").splitlines()]
    watched, swapped = out / "watched.jsonl", out / "swapped.jsonl"
    names = sorted({row["image"] for row in rows})
    following = dict(zip(names, [*names[1:], names[0]], strict=True))
    for path, some in (
        (watched, rows[::20]),
        (swapped, [row | {"image": following[row["image"]]} for row in rows[::10]]),
    ):
        path.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    recipe = {
        "task": "vqa", "model": {"image": encoder(out, 128), "text": "starter:lm", "fuse": FUSES[fuse]},
        "data": {"train": files["train"], "eval": str(watched)},
        "method": {
            "vision": "frozen", "projector": {"full": {}, "learning_rate": RATES[fuse]},
            "text": {"lora": {"rank": 16}, "learning_rate": 1e-3},
        },
        "batch_size": 32, "steps": steps, "eval_every": 500,
        "final": "last", "vqa": {"scored": 5000, "max_new_tokens": 4, "separator": ":"},
        "out": str(out), "name": f"easy-{fuse}-{steps}",
    }  # fmt: skip
    told = {"fuse": fuse, "steps": steps, "batch_size": 32, "seed": 0, "by": "role", "rate": RATES[fuse]}
    made, row = run(recipe, told)
    row["test"] = made.evaluate(files["eval"])["metrics"]["exact_match"]
    row["pictures swapped"] = made.evaluate(str(swapped))["metrics"]["exact_match"]
    return row


def nlvr(out: Path, fuse: str, steps: int) -> dict[str, Any]:
    folder = SHARED / "data/nlvr"
    with gzip.open(folder / "statements.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    made = [
        {
            "image": str(folder / row["image"]),
            "question": row["sentence"],
            "answer": row["label"],
            "of": row["identifier"],
        }
        for row in rows
    ]
    kinds = sorted({row["of"].partition("-")[0] for row in made})
    held = {*kinds[::5]}
    return smoke("nlvr", made, [row["of"].partition("-")[0] in held for row in made], out, fuse, steps)


def vqa_rad(out: Path, fuse: str, steps: int) -> dict[str, Any]:
    folder = SHARED / "data/vqa_rad"
    with gzip.open(folder / "qa.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    made = [{"image": str(folder / row["image"]), "question": row["question"], "answer": row["answer"]} for row in rows]
    names = sorted({row["image"] for row in made})
    held = {*names[::5]}
    return smoke("vqa_rad", made, [row["image"] in held for row in made], out, fuse, steps)


def coco_captions(out: Path, fuse: str, steps: int) -> dict[str, Any]:
    folder = SHARED / "data/coco_captions"
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    made = [{"image": str(folder / row["image"]), "captions": row["captions"]} for row in rows]
    return smoke("coco_captions", made, [at % 5 == 0 for at in range(len(made))], out, fuse, steps)


def smoke(
    name: str, rows: list[dict[str, Any]], held: list[bool], out: Path, fuse: str, steps: int
) -> dict[str, Any]:  # fmt: skip
    """Train on a part of the rows, score the others; for questions beside the most frequent answer."""
    task = "caption" if "captions" in rows[0] else "vqa"
    files = {}
    for side, wanted in (("train", False), ("eval", True)):
        files[side] = str(out / f"{name}-{side}.jsonl")
        some = [row for row, out_of in zip(rows, held, strict=True) if out_of is wanted]
        Path(files[side]).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    recipe = {
        "task": task, "model": {"image": encoder(out, 128), "text": "starter:lm", "fuse": FUSES[fuse]},
        "method": "full", "learning_rate": 1e-3, "batch_size": 16, "steps": steps, "eval_every": steps, "final": "last",
        task: {"max_new_tokens": 24}, "data": files | {"on_leak": "drop"}, "out": str(out),
        "name": f"{name}-{fuse}-{steps}",
    }  # fmt: skip
    _, row = run(recipe, {"fuse": fuse, "steps": steps, "batch_size": 16, "seed": 0})
    if task == "vqa":
        answers = [str(row["answer"]).lower() for row, out_of in zip(rows, held, strict=True) if out_of]
        known = [str(row["answer"]).lower() for row, out_of in zip(rows, held, strict=True) if not out_of]
        most = max(set(known), key=known.count)
        row["most frequent answer"] = round(answers.count(most) / len(answers), 4)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["easy_vqa", "nlvr", "vqa_rad", "coco_captions"])
    parser.add_argument("--fuse", choices=FUSES, default="cross_attention")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True, help="a folder for pictures and runs")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    parts = {"easy_vqa": easy_vqa, "nlvr": nlvr, "vqa_rad": vqa_rad, "coco_captions": coco_captions}
    row = parts[given.part](given.out, given.fuse, given.steps)
    print(json.dumps(row), flush=True)
    target = HERE / "results" / f"vision_write-{given.part}.json"
    rows = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else []
    target.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
