"""What rewards do to a model that answers about pictures: GRPO beside supervised tuning, on easy-VQA.

    python benchmarks/rewards_on_pictures.py 0 --out FOLDER     # both ways, from one seed
    python benchmarks/rewards_on_pictures.py tell               # results/rewards_on_pictures.md, of what was measured

The starter language model, joined with a MobileNet 0.25 by a projection, is taught for 50 steps of 16 questions what
colour or which shape a picture shows: the start. From there each way has 40 steps of 16 questions about other pictures
of train, at the same rates. GRPO writes eight answers to each, of which an exact one is worth 1, and never sees
what is right; supervised tuning is shown the 640 right answers. Both train the projection and LoRA in the decoder, the
image encoder stays as it is. Asked are 320 such questions about the test pictures, greedily and drawn at temperature
1, and half of them with other ones' pictures.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from statistics import mean
from typing import Any

import luthier
from learning_from_rewards import spread
from luthier.evaluate.generate import generate
from luthier.evaluate.rewards import verifier
from vision import questions
from vision_write import encoder

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results/rewards_on_pictures.json"
STARTING, STEPS, BATCH, GROUP, LONGEST, ASKED = 50, 40, 16, 8, 8, 320
RATES = (1e-3, 1e-3)
JUDGED: dict[str, Any] = {
    "reinforce": {"rewards": ["exact"]}, "grpo": {"group_size": GROUP, "max_new_tokens": LONGEST, "beta": 0.0},
}  # fmt: skip
WAYS = {"start": "the start", "grpo": "GRPO", "supervised": "supervised tuning"}


def method(text: float, projector: float) -> dict[str, Any]:
    return {
        "vision": "frozen", "projector": {"full": {}, "learning_rate": projector},
        "text": {"lora": {"rank": 16}, "learning_rate": text},
    }  # fmt: skip


def rows_of(side: str, out: Path) -> list[dict[str, Any]]:
    """Questions that are not answered by yes or no, as turns."""
    found = [json.loads(line) for line in (out / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()]
    made = []
    for row in found:
        asked = [
            {"type": "image", "image": str(out.resolve() / row["image"])},
            {"type": "text", "text": f" {row['question']}"},
        ]
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["answer"]}]
        if row["answer"] not in ("yes", "no"):
            made.append({"messages": turns})
    return made


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def swapped(rows: list[dict[str, Any]], turns: str = "messages") -> list[dict[str, Any]]:
    """Each with the picture, in the first of its ``turns``, of a row that is far away."""
    made = json.loads(json.dumps(rows))
    for row, other in zip(made, [*rows[len(rows) // 2 :], *rows[: len(rows) // 2]], strict=True):
        row[turns][0]["content"][0] = other[turns][0]["content"][0]
    return made


def split(out: Path) -> dict[str, list[dict[str, Any]]]:
    questions(out)
    train, test = rows_of("train", out), rows_of("test", out)
    for rows in (train, test):
        random.Random(0).shuffle(rows)
    more, test = train[STARTING * BATCH :][: STEPS * BATCH], test[:ASKED]
    return {
        "start": train[: STARTING * BATCH], "more": more, "test": test, "blind": swapped(test)[: ASKED // 2],
        "few": test[:16],
    }  # fmt: skip


def answers(run: Any, rows: list[dict[str, Any]], times: int, temperature: float, seed: int = 0) -> list[list[str]]:
    """What the model says to each row, ``times`` times."""
    predictor = run.predictor
    backbone, task = predictor.backbone, predictor.task
    asked = [task.prompt(predictor, task.parse({"messages": row["messages"][:1]})) for row in rows]
    grown = generate(
        backbone, [one for one in asked for _ in range(times)], max_new_tokens=LONGEST, temperature=temperature,
        seed=seed, batch_size=128, whole=True, stop=task.terminators(backbone),
    )  # fmt: skip
    texts = [str(backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in grown]
    return [texts[at : at + times] for at in range(0, len(texts), times)]


def exact(rows: list[dict[str, Any]], told: list[list[str]]) -> list[list[float]]:
    judge = verifier("exact")
    return [
        judge([[]] * len(some), some, [row["messages"][1]["content"]] * len(some))
        for row, some in zip(rows, told, strict=True)
    ]


def measure(name: str, seed: int, run: Any, parts: dict[str, list[dict[str, Any]]], **more: Any) -> None:
    kinds = {"greedy": ("test", 0.0), "sampled": ("test", 1.0), "exchanged": ("blind", 0.0)}
    shares: dict[str, Any] = {}
    for kind, (part, temperature) in kinds.items():
        shares[kind] = mean(some[0] for some in exact(parts[part], answers(run, parts[part], 1, temperature, seed)))
    keep(RESULTS, name, seed, {**shares, **more})


def keep(results: Path, name: str, seed: int, found: dict[str, Any]) -> None:
    told = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    told[f"{name} {seed}"] = found
    results.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(name, found, flush=True)


def tuned(recipe: dict[str, Any]) -> tuple[Any, float]:
    """A run, and the seconds of processor time that it took."""
    began = time.process_time()
    return luthier.tune(recipe), round(time.process_time() - began, 1)


def started(seed: int, out: Path, runs: Path, data: dict[str, Any]) -> tuple[dict[str, Any], Any, float]:
    """What all runs of a seed have in common, the run that they begin from, and the processor time that it took."""
    shared: dict[str, Any] = {
        "batch_size": BATCH, "seed": seed, "out": str(runs), "final": "last", "eval_every": 1000, "warmup": 0,
    }  # fmt: skip
    towers = {"image": encoder(out, 64), "text": "starter:lm", "fuse": "projection"}
    start, spent = tuned(shared | {
        "task": "chat", "model": towers, "data": data, "method": method(3e-3, 2e-3), "steps": STARTING,
        "name": "start",
    })  # fmt: skip
    return shared, start, spent


def learn(seed: int, out: Path) -> None:
    parts = split(out)
    files = {name: write(out / f"{name}-rows.jsonl", rows) for name, rows in parts.items()}
    begun = {"train": files["start"], "eval": files["few"]}
    shared, start, spent = started(seed, out, out / f"seed-{seed}", begun)
    measure("start", seed, start, parts, cpu_seconds=spent)
    from_start = shared | {
        "model": str(start.export("merged")["folder"]), "steps": STEPS, "method": method(*RATES),
        "schedule": "constant",
    }  # fmt: skip
    data = {"train": files["more"], "eval": files["few"]}
    run, spent = tuned(from_start | {"task": "reinforce", "data": data, "name": "grpo", **JUDGED})
    watched = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rewards = [line["reward"] for line in watched if line["kind"] == "train"]
    tenths = [round(mean(rewards[at : at + 10]), 4) for at in range(0, STEPS, 10)]
    measure("grpo", seed, run, parts, rewards=tenths, cpu_seconds=spent)
    run, spent = tuned(from_start | {"task": "chat", "data": data, "name": "supervised"})
    measure("supervised", seed, run, parts, cpu_seconds=spent)


def tell() -> None:
    told = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = ["# Rewards on pictures", "", str(__doc__).partition("\n\n")[2].partition("\n\n")[2].strip(), ""]
    lines += [
        "| | right, greedily | right, drawn | pictures exchanged | processor time | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for name, shown in WAYS.items():
        seeds = [one for key, one in sorted(told.items()) if key.rpartition(" ")[0] == name]
        cells = [spread([one[kind] for one in seeds]) for kind in ("greedy", "sampled", "exchanged")]
        lines.append(
            f"| {shown} | {' | '.join(cells)} | {mean(one['cpu_seconds'] for one in seeds):.0f} s | {len(seeds)} |"
        )
    numbers = [key.rpartition(" ")[2] for key in told if key.startswith("grpo ")]
    gains = [
        spread([told[f"grpo {seed}"][kind] - told[f"start {seed}"][kind] for seed in numbers])
        for kind in ("greedy", "sampled")
    ]
    lines += ["", f"GRPO over its own start: {gains[0]} greedily, {gains[1]} drawn at temperature 1.", ""]
    lines += ["Intervals are 95 % over seeds (Student's t)."]
    (HERE / "results/rewards_on_pictures.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", help="or `tell`")
    parser.add_argument("--out", type=Path, help="a folder for pictures and runs")
    given = parser.parse_args()
    if given.seed == "tell":
        tell()
    else:
        given.out.mkdir(parents=True, exist_ok=True)
        learn(int(given.seed), given.out)
