"""Plans with real data: SCAN's commands as sequences of actions, and ALFRED's household tasks as lists of steps.

    python benchmarks/action_plan.py     # results/action-plan.json; a run that was stopped goes on

A decoder of two layers of width 128 with random weights and a vocabulary of the rows' own words (those that occur once
are unknown) learns all of it from the rows, three times.

- `scan, at random`: a part of all commands held out, by content.
- `scan, longer`: trained on commands of up to 16 actions, tested on 17 to 22 (Lake and Baroni 2018, experiment 2, has
  the border at 22; the data at hand ends there).
- `alfred`: crowd-written tasks in one sentence and the plan of each; all sentences of a task are on one side. Beside it
  the plan of the training sentence that shares most words (weighted by how rare they are), and the most frequent plan.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from side_by_side import SHARED, Cell, conduct, finished
from small_t5 import small_llama

TEST, BORDER, SIGNS = 1000, 16, (";", ":")
SETTINGS: dict[str, dict[str, Any]] = {
    "scan": {"epochs": 3, "plan": {"between": " ", "max_new_tokens": 40, "separator": " : "}},
    "alfred": {"epochs": 3, "plan": {"between": " ; ", "max_new_tokens": 90, "separator": " : "}},
}
Row = dict[str, Any]


def order(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def scan(split: str) -> tuple[list[Row], list[Row]]:
    with gzip.open(SHARED / "data/scan/commands.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = sorted(map(json.loads, file), key=lambda row: order(row["command"]))
    if split == "at random":
        return rows[TEST:], rows[:TEST]
    long = [row for row in rows if len(row["actions"].split()) > BORDER]
    return [row for row in rows if len(row["actions"].split()) <= BORDER], long[:TEST]


def alfred() -> tuple[list[Row], list[Row]]:
    with gzip.open(SHARED / "data/alfred_language/tasks.jsonl.gz", "rt", encoding="utf-8") as file:
        tasks = sorted(map(json.loads, file), key=lambda task: order(task["task_id"]))
    sides = []
    for some in (tasks[150:], tasks[:150]):
        rows = [{"task": said["task"], "plan": task["plan"]} for task in some for said in task["annotations"]]
        sides.append(rows)
    return sides[0], sides[1]


def words_of(rows: list[Row]) -> list[str]:
    """What the tokenizer must know: the words that stand twice or more."""
    text = [str(value) if isinstance(value, str) else said(value) for row in rows for value in row.values()]
    counts = Counter(word for one in text for word in spaced(one).split())
    return sorted(word for word, count in counts.items() if count > 1)


def said(plan: list[Row]) -> str:
    return " ; ".join(" ".join([step["action"], *step["args"]]) for step in plan)


def spaced(text: str) -> str:
    return "".join(c if c.isalnum() or c in "_ " else f" {c} " for c in text.lower())


def nearest(train: list[Row], test: list[Row]) -> list[str]:
    """The plan of the training sentence with the most of its words, each weighing -log of the share that has it."""
    bags = [(set(spaced(row["task"]).split()), said(row["plan"])) for row in train]
    counts = Counter(word for bag, _ in bags for word in bag)
    weight = {word: -math.log(count / len(bags)) for word, count in counts.items()}
    found = []
    for row in test:
        asked = set(spaced(row["task"]).split())
        scores = (
            (sum(weight[w] for w in asked & bag) / math.sqrt(sum(weight[w] ** 2 for w in bag) or 1), plan)
            for bag, plan in bags
        )
        found.append(max(scores, key=lambda pair: pair[0])[1])
    return found


def scored(written: list[str], test: list[Row], between: str) -> dict[str, Any]:
    from luthier.evaluate import plans

    references = [[row["actions"]] if "actions" in row else [said(row["plan"])] for row in test]
    found = plans.with_intervals(written, references, between)
    return {name: {key: round(value, 4) for key, value in one.items()} for name, one in found.items()}


def measure(cell: Cell) -> dict[str, Any]:
    import luthier

    train, test = scan(cell["split"]) if cell["data"] == "scan" else alfred()
    settings = SETTINGS[cell["data"]]
    between = settings["plan"]["between"]
    told: dict[str, Any] = {"train_rows": len(train), "test_rows": len(test)}
    if cell["data"] == "alfred":
        most = Counter(said(row["plan"]) for row in train).most_common(1)[0][0]
        baselines = {"nearest": nearest(train, test), "most frequent": [most] * len(test)}
        told |= {name: scored(plans, test, between) for name, plans in baselines.items()}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "train.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in train), encoding="utf-8")
        run = finished(luthier.tune(
            task="plan", method="full", warmup=0.05, learning_rate=2e-3,
            model=small_llama(Path(folder) / "model", [*words_of(train), *SIGNS], cell["seed"], longest=160),
            data={"train": str(rows), "eval": 0}, out=str(Path(folder) / "runs"), batch_size=64, final="last",
            seed=cell["seed"], **settings,
        ))  # fmt: skip
        asked = [{"instruction": row.get("command", row.get("task"))} for row in test]
        written = [answer["text"] for answer in run.predict(asked)]
        told |= {"steps": run.result["steps"], "score": scored(written, test, between)}
    return told


if __name__ == "__main__":
    conduct(
        "action-plan",
        [
            {"data": "scan", "split": "at random", "seed": 0},
            {"data": "scan", "split": "longer", "seed": 0},
            {"data": "alfred", "split": "by task", "seed": 0},
        ],
        measure,
    )  # fmt: skip
