"""Acting with real data: a policy of language and pictures on two levels of BabyAI, and a real arm's recordings.

    python benchmarks/action.py grid [FOLDER]      # demonstrations made anew, training, then the closed loop
    python benchmarks/action.py local [FOLDER]     # the same where the instruction decides: two objects, one is named
    python benchmarks/action.py pickup [FOLDER]    # and where doing it to another object ends the episode: five objects
    python benchmarks/action.py bridge [FOLDER]    # BridgeData's arm: the error of the next action on held-out episodes

Writes ``benchmarks/results/action.json``.

Grid: two small towers (the recipe `act-grid`'s, with random weights) learn 1,000 demonstrations of GoToRedBall (one
instruction; a tenth held out) by BabyAI's own bot, from seed 1,000,000 on, and act in the easier GoToRedBallGrey. The
closed loop has seeds 0 to 199, for the policy, the bot and chance, with the likeliest action and with one drawn at
temperature 1. Local and pickup, with the recipe `act-instruction`: eyes with random weights and a text tower that
knows words and stays as it is, joined by `modulation`; demonstrations of GoToLocalS5N2 (two objects, of which the
instruction names one; 25 steps at most) and of PickupDistDebug (one of five, by colour, kind or both; picking up
another one ends the episode). Where the policy heeds the instruction, the closed loop, and once more with one
instruction whatever the world asks for. Runs are kept in FOLDER, where one is named, and what is there is not trained
again.

Bridge: 25 episodes of 10 steps, two cameras, a state and an action of 7 numbers; one split of whole episodes, four
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
from luthier.runs.acting.closed_loop import BLIND, rollout
from side_by_side import finished

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
GRID = HERE.parent / "src/luthier/recipes/data/grid"
TOWERS = {"image": str(GRID / "eyes"), "text": str(GRID / "reader"), "init": "random", "fuse": "cross_attention"}
TAUGHT = {"method": "full", "batch_size": 64, "epochs": 6, "learning_rate": 1e-3, "schedule": "cosine"}
LISTENING = {
    "model": {"image": str(GRID / "eyes-centred"), "text": "starter:minilm", "init": "random", "fuse": "modulation"},
    "method": {"vision": "full", "projector": "full"},
}
BALL, EASY = "BabyAI-GoToRedBall-v0", "BabyAI-GoToRedBallGrey-v0"
LOCAL, PICKUP = "BabyAI-GoToLocalS5N2-v0", "BabyAI-PickupDistDebug-v0"
EPISODES, SPLITS = 200, 1
BRIDGE: dict[str, dict[str, Any]] = {
    "regression": {"act": {"predicts": "regression", "chunk": 4}},
    "bins": {"act": {"predicts": "bins", "chunk": 4, "bins": 32}},
    "flow": {"act": {"predicts": "flow", "chunk": 4}},
}


def grid(out: Path) -> Iterator[dict[str, Any]]:
    run = trained(out / "ball", model=TOWERS, data={"train": f"minigrid:{BALL}:1000@1000000", "eval": 0.1},
                  metric="accuracy", final="best")  # fmt: skip
    yield told("grid", run)
    yield from looped("grid", run, EASY, temperature=0.0)
    yield from looped("grid", run, EASY, temperature=1.0, record=3, beside=True)


def local(out: Path) -> Iterator[dict[str, Any]]:
    yield from instructed("local", out, LOCAL, "go to the red ball", demonstrations=3000, epochs=5)


def pickup(out: Path) -> Iterator[dict[str, Any]]:
    yield from instructed("pickup", out, PICKUP, "pick up the red ball", demonstrations=4000, epochs=4)


def instructed(
    part: str, out: Path, level: str, other: str, *, demonstrations: int, epochs: int
) -> Iterator[dict[str, Any]]:  # fmt: skip
    rows = {"train": f"minigrid:{level}:{demonstrations}@1000000", "eval": 0.05}
    run = trained(out / part, data=rows, epochs=epochs, final="last", eval_every=200, **LISTENING)
    yield told(part, run)
    if run.result["after"]["changed_by_instruction"]["value"] < BLIND:
        return  # which a rollout refuses
    yield from looped(part, run, level, temperature=0.0, record=3, beside=True)
    yield from looped(part, run, level, temperature=1.0)
    yield from looped(part, run, level, temperature=0.0, instruction=other)


def told(part: str, run: Any) -> dict[str, Any]:
    after = {name: round(value["value"], 4) for name, value in run.result["after"].items()}
    return {"part": part, "what": "training", **{key: run.result[key] for key in ("steps", "seconds")}, **after}


def trained(folder: Path, **keys: Any) -> Any:
    if (folder / "final").is_dir():
        return luthier.load(folder)
    return finished(luthier.tune(**{"task": "act", "out": str(folder.parent), "name": folder.name, **TAUGHT, **keys}))


def looped(part: str, run: Any, level: str, **options: Any) -> Iterator[dict[str, Any]]:
    done = rollout(str(run.folder), level, episodes=EPISODES, **{"beside": False, **options})
    for name, one in (("policy", done), *((name, done[name]) for name in ("expert", "random") if name in done)):
        rate = {key: round(value, 4) for key, value in one["success"].items()}
        said = {"instruction": options.get("instruction", "the world's own"), "temperature": options["temperature"]}
        more = said if name == "policy" else {}
        yield {"part": part, "what": f"{level}: {name}", **more, "success": rate, "steps": round(one["steps"], 2)}


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
    towers = {"image": str(SHARED / "models/mobilenet_v1_0.25_128"),
              "text": str(SHARED / "models/stories260k-fp32"), "fuse": {"projection": {"tokens": 2}}}  # fmt: skip
    for name, keys in BRIDGE.items():
        began, found = time.process_time(), []
        for split in range(SPLITS):
            run = finished(luthier.tune(
                task="act", model=towers, data={"train": rows, "eval": 0.2, "split_seed": split}, method="full",
                epochs=8, batch_size=20, learning_rate=1e-3, out=str(out / "runs"), name=f"{name}-{split}",
                final="last", eval_every=1000, **keys,
            ))  # fmt: skip
            found.append({key: value["value"] for key, value in run.result["after"].items()})
        yield {"part": "bridge", "what": name, "splits": SPLITS, "cpu_seconds": round(time.process_time() - began, 1),
               **{key: round(float(np.mean([one[key] for one in found])), 4) for key in found[0]},
               "action_error_of_each": [round(one["action_error"], 4) for one in found]}  # fmt: skip


def main() -> None:
    part, *kept = sys.argv[1:]
    path = HERE / "results" / "action.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    rows = [row for row in rows if row["part"] != part]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(kept[0] if kept else temporary)
        for row in {"grid": grid, "local": local, "pickup": pickup, "bridge": bridge}[part](folder):
            rows.append(row)
            path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
