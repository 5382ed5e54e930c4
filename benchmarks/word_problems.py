"""A format-and-answer reward on word problems: GRPO on the prompts of GSM8K and SVAMP, from the starter model.

    python benchmarks/word_problems.py 0       # a seed: results/word_problems.json
    python benchmarks/word_problems.py tell    # results/word_problems.md

The starter model first sees 320 worked problems three times (full, 1e-3, batches of 16), so that some of its answers
end in `#### number`. Then GRPO by LoRA: eight answers to each of six prompts, thirty times; 0.5 for an answer of that
form, 1 for the right number behind the mark. Beside it supervised tuning goes on for as many steps of as many rows (48)
on the worked solutions of the same problems. Asked are 100 other problems of each set, once each, at temperature 1.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import luthier
from learning_from_rewards import ends, said, spread
from luthier.data.text.template import encode_prompt
from luthier.evaluate.generate import generate
from luthier.evaluate.rewards import verifier
from luthier.models.backbone import Backbone

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared/data"
RESULTS = HERE / "results/word_problems.json"
FORM = "(?s).*#### -?[0-9.,]+"
LONGEST, STEPS, PROMPTS, GROUP, ASKED = 72, 30, 6, 8, 100
SHARED: dict[str, Any] = {
    "method": "lora", "learning_rate": 2e-3, "warmup": 0, "schedule": "constant", "final": "last", "eval_every": 1000,
}  # fmt: skip


def problems() -> list[list[dict[str, str]]]:
    """Of each set: question, worked solution, final. Of GSM8K those whose solution is short, without its calculator's
    marks; of SVAMP the equation is the solution."""
    with gzip.open(DATA / "gsm8k/train.jsonl.gz", "rt", encoding="utf-8") as file:
        school = [json.loads(line) for line in file]
    short = [
        {"prompt": one["question"], "response": re.sub("<<.*?>>", "", one["answer"]), "final": str(one["final"])}
        for one in school
        if len(one["answer"]) < 160
    ]
    lines = (DATA / "svamp/svamp.jsonl").read_text(encoding="utf-8").splitlines()
    return [short, [of_equation(json.loads(line)) for line in lines]]


def of_equation(one: dict[str, Any]) -> dict[str, str]:
    final, left = f"{one['final']:g}", re.sub("[.]0", "", one["equation"])[2:-2]
    return {"prompt": one["question"], "response": f"{left} = {final}\n#### {final}", "final": final}


def parts(seed: int) -> tuple[list[dict[str, str]], list[dict[str, str]], list[dict[str, str]]]:
    """To begin with, to learn, and to be asked: as many of each set."""
    draw = random.Random(seed)
    found: tuple[list[dict[str, str]], ...] = ([], [], [])
    for rows in problems():
        draw.shuffle(rows)
        for part, some in zip(found, (rows[:160], rows[160:560], rows[-ASKED:]), strict=True):
            part += some
    for part in found:
        draw.shuffle(part)
    return found[0], found[1], found[2]


def measure(backbone: Backbone, rows: list[dict[str, str]], seed: int) -> dict[str, float]:
    asked = [encode_prompt(backbone.tokenizer, [{"role": "user", "content": row["prompt"]}]) for row in rows]
    grown = generate(
        backbone, asked, max_new_tokens=LONGEST, temperature=1.0, seed=1000 + seed, batch_size=50, whole=True,
        stop=ends(backbone),
    )  # fmt: skip
    texts, finals = [said(backbone, ids) for ids in grown], [row["final"] for row in rows]
    right = verifier("after", "####")([[]] * len(texts), texts, finals)
    form = [float(re.fullmatch(FORM, text) is not None) for text in texts]
    return {"form": mean(form), "right": mean(right), "length": mean(map(len, grown))}


def write(path: Path, rows: list[dict[str, str]], *columns: str) -> dict[str, Any]:
    path.write_text("".join(json.dumps({key: row[key] for key in columns}) + "\n" for row in rows), encoding="utf-8")
    return {"train": str(path), "eval": 0.0}


def learn(seed: int) -> None:
    folder = Path(tempfile.mkdtemp())
    first, rows, asked = parts(seed)
    answered = write(folder / "first.jsonl", first, "prompt", "response")
    begun = luthier.tune(SHARED | {
        "task": "chat", "model": "starter:lm", "data": answered, "batch_size": 16, "epochs": 3, "seed": seed,
        "method": "full", "learning_rate": 1e-3, "out": str(folder), "name": "begun",
    })  # fmt: skip
    found: dict[str, Any] = {"start": measure(begun.predictor.backbone, asked, seed)}
    from_here = {"model": str(begun.folder / "final"), "steps": STEPS, "seed": seed}
    ways: dict[str, dict[str, Any]] = {
        "supervised": {
            "task": "chat", "data": write(folder / "worked.jsonl", rows, "prompt", "response"),
            "batch_size": PROMPTS * GROUP,
        },
        "grpo": {
            "task": "reinforce", "data": write(folder / "asked.jsonl", rows, "prompt", "final"), "batch_size": PROMPTS,
            "reinforce": {"rewards": [{"after": "####"}, {"format": FORM, "weight": 0.5}]},
            "grpo": {"group_size": GROUP, "max_new_tokens": LONGEST, "beta": 0.02},
        },
    }  # fmt: skip
    for name, way in ways.items():
        run = luthier.tune(SHARED | from_here | way | {"out": str(folder), "name": name})
        found[name] = measure(run.predictor.backbone, asked, seed)
        print(seed, name, found[name], flush=True)
    told = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps(told | {str(seed): found}, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def tell() -> None:
    told = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = ["# Word problems", "", str(__doc__).partition("\n\n")[2].partition("\n\n")[2].strip(), ""]
    lines += ["| | ends in `#### number` | the number is right | tokens | seeds |", "|---|---|---|---|---|"]
    for name in ("start", "supervised", "grpo"):
        cells = [spread([seed[name][key] for seed in told.values()]) for key in ("form", "right", "length")]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(told)} |")
    lines += ["", "Intervals are 95 % over seeds (Student's t).", ""]
    (HERE / "results/word_problems.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "tell":
        tell()
    else:
        learn(int(sys.argv[1]))
