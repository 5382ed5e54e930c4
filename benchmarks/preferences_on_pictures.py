"""What preferences do to a model that answers about pictures: DPO beside supervised tuning, and a reward model.

    python benchmarks/preferences_on_pictures.py 0 --out FOLDER     # every way, from one seed
    python benchmarks/preferences_on_pictures.py tell               # results/preferences_on_pictures.md

The starter language model, joined with a MobileNet 0.25 by a projection, is taught for 50 steps of 16 questions of
easy-VQA what colour or which shape a picture shows: the start, as in `rewards_on_pictures.py`. From there each way has
40 steps of 16 questions about other pictures of train. A pair has the right answer as the chosen one and another answer
of its kind, drawn at random, as the rejected one. DPO and the reward model see pairs; supervised tuning sees the chosen
answers. All train the projection and LoRA in the decoder, the image encoder stays as it is. The test has 320 pairs
about the test pictures: in how many the chosen answer is likelier (its score higher), with the own picture and with
another pair's; and how many questions are answered right, greedily. Rates were chosen on rows of train that no way
learns.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from statistics import mean
from typing import Any

from learning_from_rewards import spread
from luthier.objectives import OBJECTIVES
from rewards_on_pictures import ASKED, BATCH, STARTING, STEPS, answers, exact, method, rows_of, tuned, write
from vision import questions
from vision_write import encoder

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results/preferences_on_pictures.json"
RATES = {"dpo": 3e-4, "supervised": 1e-3, "reward": 1e-3}
WAYS = {"start": "the start", "dpo": "DPO", "supervised": "supervised tuning on the chosen", "reward": "reward model"}
SHAPES = ("circle", "rectangle", "triangle")
Rows = list[dict[str, Any]]


def split(out: Path, trial: bool) -> dict[str, Rows]:
    questions(out)
    train, test = rows_of("train", out), rows_of("test", out)
    for rows in (train, test):
        random.Random(0).shuffle(rows)
    more = train[STARTING * BATCH :]
    kept = more[: STEPS * BATCH]
    test = more[len(kept) :][:ASKED] if trial else test[:ASKED]
    draw, said = random.Random(1), sorted({row["messages"][1]["content"] for row in train})
    return {"start": train[: STARTING * BATCH], "more": kept, "pairs": paired(kept, said, draw),
            "test": test, "judged": paired(test, said, draw)}  # fmt: skip


def paired(rows: Rows, said: list[str], draw: random.Random) -> Rows:
    """Each with a wrong answer of its right one's kind."""
    made = []
    for row in rows:
        right = row["messages"][1]["content"]
        others = [one for one in said if one != right and (one in SHAPES) == (right in SHAPES)]
        made.append({"prompt": row["messages"][:1], "chosen": right, "rejected": draw.choice(others)})
    return made


def exchanged(rows: Rows) -> Rows:
    """Each with the picture of a pair that is far away."""
    made = json.loads(json.dumps(rows))
    for row, other in zip(made, [*rows[len(rows) // 2 :], *rows[: len(rows) // 2]], strict=True):
        row["prompt"][0]["content"][0] = other["prompt"][0]["content"][0]
    return made


def preferred(run: Any, rows: Rows) -> float:
    """Of a model that writes: in how many pairs the chosen answer is likelier; of one that scores, scored higher."""
    predictor = run.predictor
    if run.info["task"] == "reward":
        told = run.predict(rows)
        return mean(float(one["chosen"] > one["rejected"]) for one in told)
    from luthier.tasks import prefer
    from luthier.tasks.answers import parsed_row

    module = OBJECTIVES.load("simpo")
    objective = module.Objective(module.Options(), predictor.backbone, None)
    objective.encoder = prefer.Task(prefer.Options()).encoder(predictor.backbone, 512, "error")
    found = [parsed_row(row, prefer.Task.formats) for row in rows]
    encoded = [one | {"row": at} for at, row in enumerate(found) for one in objective.encode(row)]
    logs = predictor.reader.outputs(objective.reader, encoded)
    right = []
    for row, logs_n in zip(encoded, logs, strict=True):
        first = sum(row["supervised"][1 : row["lengths"][0]])
        right.append(float(logs_n[:first].sum() > logs_n[first:].sum()))
    return mean(right)


def measure(
    name: str, seed: int, run: Any, parts: dict[str, Rows], spent: float, results: Path, *, writes: bool
) -> None:  # fmt: skip
    shares = {"preferred": preferred(run, parts["judged"]), "exchanged": preferred(run, exchanged(parts["judged"]))}
    if writes and run.info["task"] != "reward":
        told = exact(parts["test"], answers(run, parts["test"], 1, 0.0, seed))
        shares["greedy"] = mean(some[0] for some in told)
    told_before = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    told_before[f"{name} {seed}"] = {**shares, "cpu_seconds": spent}
    results.write_text(json.dumps(told_before, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(name, told_before[f"{name} {seed}"], flush=True)


def learn(seed: int, out: Path, trial: list[float]) -> None:
    parts = split(out, bool(trial))
    files = {name: write(out / f"{name}-of-pairs.jsonl", rows) for name, rows in parts.items()}
    shared: dict[str, Any] = {
        "batch_size": BATCH, "seed": seed, "out": str(out / f"pairs-{seed}"), "final": "last", "eval_every": 1000,
        "warmup": 0,
    }  # fmt: skip
    results = out / "trial.json" if trial else RESULTS
    towers = {"image": encoder(out, 64), "text": "starter:lm", "fuse": "projection"}
    start, spent = tuned(shared | {
        "task": "chat", "model": towers, "data": {"train": files["start"], "eval": 0},
        "method": method(3e-3, 2e-3), "steps": STARTING, "name": "start",
    })  # fmt: skip
    measure("start", seed, start, parts, spent, results, writes=not trial)
    begun = shared | {"model": str(start.export("merged")["folder"]), "steps": STEPS, "schedule": "constant"}
    for name, task, rows in (("dpo", "prefer", "pairs"), ("supervised", "chat", "more"), ("reward", "reward", "pairs")):
        for rate in trial or [RATES[name]]:
            called = f"{name}-{rate:g}" if trial else name
            recipe = {"task": task, "data": {"train": files[rows], "eval": 0}, "method": method(rate, rate)}
            run, spent = tuned(begun | recipe | {"name": called})
            measure(called, seed, run, parts, spent, results, writes=not trial)


def tell() -> None:
    told = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = ["# Preferences on pictures", "", str(__doc__).partition("\n\n")[2].partition("\n\n")[2].strip(), ""]
    lines += ["| | chosen preferred | pictures exchanged | right, greedily | processor time | seeds |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, shown in WAYS.items():
        seeds = [one for key, one in sorted(told.items()) if key.rpartition(" ")[0] == name]
        cells = [
            spread([one[kind] for one in seeds]) if kind in seeds[0] else ""
            for kind in ("preferred", "exchanged", "greedy")
        ]
        lines.append(
            f"| {shown} | {' | '.join(cells)} | {mean(one['cpu_seconds'] for one in seeds):.0f} s | {len(seeds)} |"
        )
    numbers = [key.rpartition(" ")[2] for key in told if key.startswith("dpo ")]
    for kind, what in (("preferred", "of pairs preferred"), ("greedy", "right, greedily")):
        gains = [told[f"dpo {seed}"][kind] - told[f"start {seed}"][kind] for seed in numbers]
        lines += ["", f"DPO over its own start, {what}: {spread(gains)}."]
    lines += ["", "Intervals are 95 % over seeds (Student's t)."]
    (HERE / "results/preferences_on_pictures.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", help="or `tell`")
    parser.add_argument("--out", type=Path, help="a folder for pictures and runs")
    parser.add_argument("--trial", type=float, nargs="*", default=[], help="rates to try on rows of train")
    given = parser.parse_args()
    if given.seed == "tell":
        tell()
    else:
        given.out.mkdir(parents=True, exist_ok=True)
        learn(int(given.seed), given.out, given.trial)
