"""The pictures and questions of `vqa-shapes`: a shape or two on grey, what is asked of them and what is answered.

python benchmarks/shapes_data.py      # writes src/luthier/recipes/data/shapes/{*.png,train.jsonl,eval.jsonl}
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

TO = Path(__file__).parents[1] / "src/luthier/recipes/data/shapes"
SIDE, SIZE = 32, 15
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (235, 210, 40)}
SHAPES, HALVES = ("circle", "square", "cross"), ("left", "right")
TRAIN, HELD_OUT = 200, 32


def draw(picture: ImageDraw.ImageDraw, shape: str, colour: tuple[int, int, int], left: int, top: int) -> None:
    right, bottom = left + SIZE - 1, top + SIZE - 1
    if shape == "circle":
        picture.ellipse((left, top, right, bottom), fill=colour)
    elif shape == "square":
        picture.rectangle((left, top, right, bottom), fill=colour)
    else:
        middle = SIZE // 2
        picture.rectangle((left + middle - 1, top, left + middle + 1, bottom), fill=colour)
        picture.rectangle((left, top + middle - 1, right, top + middle + 1), fill=colour)


def scene(choose: random.Random, at: int) -> tuple[Image.Image, list[dict[str, str]]]:
    """A shape in one half or one in each, and every question about them that has an answer."""
    image = Image.new("RGB", (SIDE, SIDE), "grey")
    picture, count = ImageDraw.Draw(image), 1 + at % 2
    halves = choose.sample(HALVES, count)
    colours, absent = choose.sample([*COLOURS], count), choose.random() < 0.5
    for half, colour in zip(halves, colours, strict=True):
        left = choose.randint(0, 1) + 16 * HALVES.index(half)
        draw(picture, choose.choice(SHAPES), COLOURS[colour], left, choose.randint(1, SIDE - SIZE - 1))
    asked = [("how many shapes are there?", str(count))]
    asked += [(f"what colour is on the {half}?", colour) for half, colour in zip(halves, colours, strict=True)]
    asked += [(f"where is the {colour} one?", half) for half, colour in zip(halves, colours, strict=True)]
    other = choose.choice([name for name in COLOURS if name not in colours] if absent else colours)
    asked.append((f"is anything {other}?", "no" if absent else "yes"))
    return image, [{"question": question, "answer": answer} for question, answer in asked]


def main() -> None:
    choose, known = random.Random(0), set()
    TO.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", TRAIN), ("eval", HELD_OUT)):
        rows: list[dict[str, Any]] = []
        for at in range(count):
            image, asked = scene(choose, at)
            while image.tobytes() in known:  # each picture once
                image, asked = scene(choose, at)
            known.add(image.tobytes())
            image.save(TO / f"{name}_{at:03}.png", optimize=True)
            rows += [{"image": f"{name}_{at:03}.png", **one} for one in asked]
        (TO / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
