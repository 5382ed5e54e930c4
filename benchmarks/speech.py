"""Speech with real recordings: spoken digits as classes and as letters, words of yes and no, sentences read aloud.

    python benchmarks/speech.py classify [--folds 4] [--seeds 1]     # spoken_digits: speakers mixed, and one held out
    python benchmarks/speech.py transcribe [--folds 1] [--seeds 1]   # the same, by CTC
    python benchmarks/speech.py write [--folds 4] --out FOLDER       # the same, as words of a language model
    python benchmarks/speech.py yes_no
    python benchmarks/speech.py read_speech

Writes ``benchmarks/results/speech-<part>.json``; rows that are there already are kept. ``write`` wants the runs of
``classify`` with the same ``--out``: their encoder, which learned the classes from the same speakers, stands frozen
before ``starter:lm``, which writes the digit's word; what joins them is new and trains, with LoRA in the language
model. All models are ``starter:ears``, a Wav2Vec2-BERT (a Conformer on log-mel frames) of two layers of width 64,
from random weights. Digits: 1,200 recordings of ten digits by four speakers; mixed: a fifth held out by a shuffle
under the seed; held out: three speakers learned, the fourth judged. Epochs, speeds and masks were chosen on the split
of seed 0. yes_no has 40 recordings of one speaker, of which 8 are judged; read_speech has 32 sentences, of which 28
are learned and judged on themselves too: it shows that long rows run and can be learned, not that a model of this
size hears English.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luthier
from luthier.evaluate.intervals import mean_interval
from side_by_side import finished

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "data"
CHANGED = {"speeds": [0.9, 1.0, 1.1], "time_masks": 1, "time_mask": 0.08, "band_masks": 1, "band_mask": 0.2}
DIGITS: dict[str, dict[str, Any]] = {
    "classify": {"epochs": 20, "learning_rate": 4e-3, "batch_size": 16},
    "transcribe": {"epochs": 40, "learning_rate": 4e-3, "batch_size": 16},
}  # fmt: skip
WRITES: dict[str, Any] = {
    "method": {"audio": "frozen", "projector": {"full": {}, "learning_rate": 2e-3},
               "text": {"lora": {"rank": 16}, "learning_rate": 2e-3}},
    "epochs": 8, "batch_size": 16, "transcribe": {"max_new_tokens": 6, "separator": ":"},
}  # fmt: skip
MODEL = {"name": "starter:ears", "init": "random"}
MIXED = "a fifth, speakers mixed"


def rows_of(name: str) -> list[dict[str, Any]]:
    lines = (SHARED / name / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [row | {"audio": str(SHARED / name / row["audio"])} for row in map(json.loads, lines)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(recipe: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    began, spent = time.perf_counter(), time.process_time()
    made = finished(luthier.tune(**recipe))
    row = told | {"steps": made.result["steps"], "parameters": made.info["model"]["parameters"]}
    for name, found in made.result["after"].items():
        row[name] = {key: found[key] for key in ("value", "low", "high", "n") if key in found}
    row |= {"seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(time.process_time() - spent, 1)}
    print(json.dumps(row), flush=True)
    return row


def digits(part: str, out: Path, folds: int, seeds: int, known: set[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    rows, column = rows_of("spoken_digits"), "label" if part == "classify" else "text"
    rows = [{"audio": row["audio"], "speaker": row["speaker"], column: row["text"]} for row in rows]
    speakers = sorted({row["speaker"] for row in rows})
    cases: list[tuple[str, int, list[dict[str, Any]], list[dict[str, Any]]]] = []
    for seed in range(seeds):
        order = random.Random(seed).sample(rows, len(rows))
        cases.append(("mixed", seed, order[len(rows) // 5 :], order[: len(rows) // 5]))
    for one in speakers[:folds]:
        cases.append((one, 0, [r for r in rows if r["speaker"] != one], [r for r in rows if r["speaker"] == one]))
    for name, seed, train, held_out in cases:
        told = MIXED if name == "mixed" else name
        if (told, seed) in known:
            continue
        data = {
            "train": write(out / f"{name}{seed}.jsonl", train),
            "eval": write(out / f"{name}{seed}-e.jsonl", held_out),
        }
        recipe = {
            "data": data, "seed": seed, "eval_every": 10_000, "final": "last", "out": str(out),
            "name": f"{part}-{name}-{seed}",
        }  # fmt: skip
        if part == "write":
            ear = str(out / f"classify-{name}-{seed}" / "final")
            model = {"audio": ear, "text": "starter:lm", "fuse": {"projection": {"pool": 5}}}
            recipe |= {"task": "transcribe", "model": model, **WRITES}
        else:
            recipe |= {"task": part, "model": MODEL, "method": "full", "augment": CHANGED, **DIGITS[part]}
        row = run(recipe, {"held_out": told, "seed": seed})
        yield row | (right(out / f"{part}-{name}-{seed}", held_out) if part == "write" else {})


def right(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The share of all rows whose word is written: at its end a run scores the first 200, not all digits."""
    answers = luthier.load(folder).predict([row["audio"] for row in rows])
    return {"exact_of_all": mean_interval([a["text"] == row["text"] for a, row in zip(answers, rows, strict=True)])}


def small(name: str, out: Path) -> Iterator[dict[str, Any]]:
    rows = [{"audio": row["audio"], "text": row["text"]} for row in rows_of(name)]
    held_out = 8 if name == "yes_no" else 4
    rows = random.Random(0).sample(rows, len(rows))
    data = {"train": write(out / "train.jsonl", rows[held_out:]), "eval": write(out / "eval.jsonl", rows[:held_out])}
    recipe = {
        "task": "transcribe", "model": MODEL, "method": "full", "data": data, "batch_size": 4, "seed": 0,
        "learning_rate": 2e-3, "epochs": 60 if name == "yes_no" else 40, "eval_every": 10_000, "final": "last",
        "out": str(out), "name": name,
    }  # fmt: skip
    row = run(recipe, {"rows": len(rows), "seed": 0})
    learned = luthier.load(out / name).evaluate(data["train"])["metrics"]
    yield row | {f"{key}_of_learned_rows": learned[key]["value"] for key in ("wer", "cer")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("classify", "transcribe", "write", "yes_no", "read_speech"))
    parser.add_argument("--folds", type=int, default=0, help="speakers that are held out, one at a time")
    parser.add_argument("--seeds", type=int, default=1, help="splits with mixed speakers")
    parser.add_argument("--out", type=Path, help="a folder that keeps the runs; default: one that goes")
    given = parser.parse_args()
    file = HERE / "results" / f"speech-{given.part}.json"
    found = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        known = {(row.get("held_out", ""), row["seed"]) for row in found}
        made = small(given.part, out) if "_" in given.part else digits(given.part, out, given.folds, given.seeds, known)
        for row in made:
            found.append(row)
            keys = {"write": WRITES, **DIGITS}.get(given.part)
            changed = {"sound": CHANGED, "keys": keys} if keys else {}
            told = {"model": "starter:ears", **changed, "rows": found}
            file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
