"""The rows of `rlhf-lora`: two-sentence tales to imitate, pairs of which the one with something red is better, prompts.

python benchmarks/path_data.py        # writes src/luthier/recipes/data/path/{tales,pairs,prompts}.jsonl
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

TO = Path(__file__).parents[1] / "src/luthier/recipes/data/path"
ANIMALS = [
    "fox", "cat", "bear", "heron", "mouse", "owl", "rabbit", "dog", "duck", "frog", "goat", "hedgehog", "horse",
    "otter", "sheep", "wolf",
]  # fmt: skip
COLOURS = ["red", "blue", "green", "yellow", "white", "black"]
THINGS = ["ball", "boat", "kite", "hat", "lamp", "stone"]
PLACES = ["by the river", "in the garden", "near the mill", "under a bridge", "on the beach", "behind the barn"]
ENDS = ["It took it home.", "It kept it until winter.", "It gave it to a friend.", "It hid it under a leaf."]
ASKED = ["Tell me a story about a {}.", "Write a short story with a {} in it."]


def tale(draw: random.Random, animal: str, colour: str) -> str:
    start = f"{'An' if animal[0] in 'aeiou' else 'A'} {animal} found a {colour} {draw.choice(THINGS)}"
    return f"{start} {draw.choice(PLACES)}. {draw.choice(ENDS)}"


def asked(draw: random.Random, animal: str) -> str:
    return draw.choice(ASKED).format(animal)


def main() -> None:
    draw = random.Random(0)
    tales: list[dict[str, Any]] = []
    for at in range(192):
        animal = ANIMALS[at % len(ANIMALS)]
        tales.append({"prompt": asked(draw, animal), "completion": tale(draw, animal, draw.choice(COLOURS))})
    pairs = []
    for at in range(128):
        animal = ANIMALS[at % len(ANIMALS)]
        better, other = tale(draw, animal, "red"), draw.choice(COLOURS[1:])
        pairs.append(
            {"prompt": asked(draw, animal), "chosen": better, "rejected": better.replace(" red ", f" {other} ")}
        )
    prompts = [{"prompt": ask.format(animal), "final": "red"} for animal in ANIMALS for ask in ASKED]
    TO.mkdir(parents=True, exist_ok=True)
    for name, rows in (("tales", tales), ("pairs", pairs), ("prompts", prompts)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (TO / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
