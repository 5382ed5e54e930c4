"""Demonstrations made on the spot by an environment's own expert: rows, one an episode.

``minigrid:BabyAI-GoToRedBall-v0:300`` as a path of data is 300 episodes from seed 0 on; ``...:300@1000`` from seed 1000
on. Written to a folder they are JSONL with a PNG file for each different picture.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.data.files.reading import Row
from luthier.environments.world import World, png
from luthier.types import Finding, Refused, Source

PATH = re.compile(r"minigrid:(?P<name>[\w-]+):(?P<episodes>\d+)(?:@(?P<seed>\d+))?")


def read_demonstrations(path: str) -> tuple[list[Row], list[Finding]]:
    """Rows of the format `episode`. Nothing is raised: what is wrong is a finding."""
    told = PATH.fullmatch(path)
    if told is None or int(told["episodes"]) < 1:
        mend = "write minigrid:BabyAI-GoToRedBall-v0:300, or with the first seed ...:300@1000"
        return [], [Finding("data.missing", path, "names no world and number of episodes", mend)]
    try:
        made = demonstrate(told["name"], int(told["episodes"]), int(told["seed"] or 0))
        return [(Source(path, at), row) for at, row in enumerate(made, start=1)], []
    except Refused as refused:
        one = refused.findings[0]
        return [], [Finding("data.needs-extra" if "extra" in one.code else "data.missing", path, one.what, one.mend)]


def demonstrate(name: str, episodes: int, seed: int) -> Iterator[dict[str, Any]]:
    """Episodes that the expert ends in success, of the seeds from ``seed`` on; one that fails is left out."""
    world = World(name)
    found = 0
    for at in range(seed, seed + 10 * episodes):
        row, reward = _episode(world, at)
        if reward > 0:
            found += 1
            yield row
        if found == episodes:
            break
    world.close()


def _episode(world: World, seed: int) -> tuple[dict[str, Any], float]:
    seen, total, over = world.reset(seed), 0.0, False
    following, trajectory, instruction = world.expert(), [], seen.instruction
    while not over:
        action = following()
        trajectory.append({"image": png(seen.pixels), "action": action})
        seen, reward, ended, cut = world.step(action)
        total, over = total + reward, ended or cut
    return {"instruction": instruction, "trajectory": trajectory, "seed": seed, "level": world.name}, total


def write_demonstrations(name: str, episodes: int, seed: int, to: Path) -> dict[str, Any]:
    """``to``/episodes.jsonl and ``to``/frames. Refused where that file is there already."""
    file = to / "episodes.jsonl"
    if file.exists():
        raise Refused(Finding("copy.exists", str(file), f"{file} exists already", "give another folder"))
    (to / "frames").mkdir(parents=True, exist_ok=True)
    steps, count, made = 0, 0, to / "episodes.partial"
    with made.open("w", encoding="utf-8") as lines:
        for row in demonstrate(name, episodes, seed):
            for step in row["trajectory"]:
                held = step["image"]
                place = Path("frames") / f"{hashlib.sha256(held).hexdigest()[:16]}.png"
                if not (to / place).is_file():
                    (to / place).write_bytes(held)
                step["image"] = str(place)
            lines.write(json.dumps(row) + "\n")
            steps, count = steps + len(row["trajectory"]), count + 1
    made.replace(file)
    return {"file": str(file), "episodes": count, "steps": steps, "pictures": len(list((to / "frames").iterdir()))}
