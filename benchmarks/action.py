"""Acting with real data: a policy of language and pictures on two levels of BabyAI, and a real arm's recordings.

    python benchmarks/action.py grid      # demonstrations made anew, training, then the closed loop
    python benchmarks/action.py bridge    # BridgeData's arm: the error of the next action on held-out episodes

Grid: 1,000 demonstrations of GoToRedBallGrey (one instruction) and 2,000 of GoToLocal (54 instructions) by BabyAI's own
bot, from seed 1,000,000 on, learned together by the two towers of the recipe `act-grid`, which begin with random
weights. The closed loop has seeds 0 to 199 on each level, for the policy, the bot and chance, and GoToLocal once more
with one instruction whatever the world asks for.

Bridge: 25 episodes of 10 steps, two cameras, a state and an action of 7 numbers; five splits of whole episodes, four
fifths to learn from. Beside the error of the next action (mean absolute, in halves of each number's range) stand that
of doing the last action again and of the mean action.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luthier

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
GRID = HERE.parent / "src/luthier/recipes/data/grid"
LEVELS = {"BabyAI-GoToRedBallGrey-v0": 1000, "BabyAI-GoToLocal-v0": 2000}
EPISODES, FIRST = 200, 1_000_000
BRIDGE: dict[str, dict[str, Any]] = {
    "regression": {"act": {"predicts": "regression", "chunk": 4}},
    "bins": {"act": {"predicts": "bins", "chunk": 4, "bins": 32}},
    "flow": {"act": {"predicts": "flow", "chunk": 4}},
}


def grid(out: Path) -> Iterator[dict[str, Any]]:
    from luthier.runs.closed_loop import rollout

    began, spent = time.perf_counter(), time.process_time()
    run = luthier.tune(
        task="act", model={"image": str(GRID / "eyes"), "text": str(GRID / "reader"), "init": "random",
                           "fuse": "cross_attention"},
        data={"train": [f"minigrid:{level}:{count}@{FIRST}" for level, count in LEVELS.items()], "eval": 0.05},
        method="full", batch_size=64, epochs=8, learning_rate=1e-3, schedule="cosine", out=str(out), final="last",
        name="grid",
    )  # fmt: skip
    after = {name: round(value["value"], 4) for name, value in run.result["after"].items()}
    yield {"part": "grid", "what": "training", "steps": run.result["steps"], "parameters": run.result["parameters"],
           "seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(time.process_time() - spent, 1),
           **after}  # fmt: skip
    asked: list[tuple[str, str]] = [(level, "") for level in LEVELS]
    for level, instruction in [*asked, ("BabyAI-GoToLocal-v0", "go to the red ball")]:
        told = rollout(str(run.folder), level, episodes=EPISODES, record=0 if instruction else 4,
                       instruction=instruction, beside=not instruction)  # fmt: skip
        for name, one in (("policy", told), *((name, told[name]) for name in ("expert", "random") if name in told)):
            rate = {key: round(value, 4) for key, value in one["success"].items()}
            yield {"part": "grid", "what": f"{level}: {name}", "instruction": instruction or "the world's own",
                   "success": rate, "steps": round(one["steps"], 2)}  # fmt: skip


def bridge_rows(folder: Path) -> str:
    """The recordings as rows, both cameras as PNG files."""
    import numpy as np
    from PIL import Image

    given = SHARED / "data/bridge_robot"
    arrays = np.load(given / "episodes.npz")
    arrays = {name: arrays[name] for name in arrays.files}
    lines = []
    for line in (given / "episodes.jsonl").read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        at, trajectory = told["episode"], []
        for step in range(told["steps"]):
            files = [folder / f"{at}-{step}-{camera}.png" for camera in (0, 1)]
            for camera, file in enumerate(files):
                Image.fromarray(arrays[f"image_{camera}"][at, step]).save(file)
            numbers = {name: [float(value) for value in arrays[name][at, step]] for name in ("state", "action")}
            trajectory.append({"image": [str(file) for file in files], **numbers})
        lines.append(json.dumps({"instruction": told["instruction"], "trajectory": trajectory}) + "\n")
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(folder / "rows.jsonl")


def bridge(out: Path) -> Iterator[dict[str, Any]]:
    import numpy as np

    rows = bridge_rows(out)
    eyes = str(SHARED / "models/mobilenet_v1_0.25_128")
    for name, keys in BRIDGE.items():
        began, found = time.process_time(), []
        for split in range(5):
            run = luthier.tune(
                task="act", model={"image": eyes, "text": "starter:minilm", "fuse": {"projection": {"tokens": 4}}},
                data={"train": rows, "eval": 0.2, "split_seed": split}, method="lora", epochs=15, batch_size=20,
                learning_rate=1e-3, out=str(out / "runs"), name=f"{name}-{split}", final="last", **keys,
            )  # fmt: skip
            found.append({key: value["value"] for key, value in run.result["after"].items()})
        yield {"part": "bridge", "what": name, "splits": 5, "cpu_seconds": round(time.process_time() - began, 1),
               **{key: round(float(np.mean([one[key] for one in found])), 4) for key in found[0]},
               "action_error_of_each": [round(one["action_error"], 4) for one in found]}  # fmt: skip


def main() -> None:
    (part,) = sys.argv[1:]
    path = HERE / "results" / "action.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    rows = [row for row in rows if row["part"] != part]
    with tempfile.TemporaryDirectory() as folder:
        for row in {"grid": grid, "bridge": bridge}[part](Path(folder)):
            rows.append(row)
            path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            print(json.dumps(row), flush=True)
        for recording in Path(folder).glob("grid/*.gif"):
            (HERE / "results" / f"action-{recording.name.removeprefix('rollout-')}").write_bytes(recording.read_bytes())


if __name__ == "__main__":
    main()
