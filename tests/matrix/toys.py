"""Learnable toy sets: the label is told by a colour that stands somewhere in the text, or in the picture."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiny

COLOURS = tiny.WORDS[:3]
OTHERS = tiny.WORDS[3:]
TRAIN, EVAL = 32, 8


def rows(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    """``count`` different rows of a task of the table, the colours in turn."""
    draw, made, seen = random.Random(seed), [], set()
    while len(made) < count:
        words = draw.choices(OTHERS, k=draw.randint(2, 12))  # some longer than a sliding window
        colour = COLOURS[len(made) % 2]
        words.insert(draw.randint(0, len(words)), colour)
        if (text := " ".join(words)) not in seen:
            seen.add(text)
            made.append(_row(task, text, colour, draw))
    return made


def _row(task: str, text: str, colour: str, draw: random.Random) -> dict[str, Any]:
    if task == "single":
        return {"text": text, "label": colour}
    if task == "multi":  # red or green, and perhaps blue
        blue = draw.random() < 0.5
        return {"text": f"{text} blue" if blue else text, "label": [colour, "blue"] if blue else [colour]}
    if task == "regression":
        return {"text": text, "label": 1.5 if colour == COLOURS[0] else -0.5}
    if task == "tag":  # the colour, and the word after it where there is one
        words = text.split()
        begins = words.index(colour)
        tags = ["B-COLOUR" if at == begins else "I-COLOUR" if at == begins + 1 else "O" for at in range(len(words))]
        return {"tokens": words, "tags": tags}
    if task == "chat":
        return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"the {colour}"}]}
    if task == "retrieve":  # a passage that stands in many rows is no negative of any of them
        return {"query": text, "positive": f"the {colour}"}
    if task == "summarize":
        return {"document": text, "summary": f"the {colour}"}
    return {"text": text}


def pictures(folder: Path, colours: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Patches of the colours in turn, in ``folder``: the place there and the colour of each."""
    made = [(f"images/{at}.png", colours[at % len(colours)]) for at in range(count)]
    for at, (name, colour) in enumerate(made):
        tiny.save_picture(folder / name, colour, seed=at)
    return made


def write(task: str, folder: Path) -> dict[str, str]:
    """``data`` of a recipe: no text of one side is in the other."""
    both = rows(task, TRAIN + EVAL, seed=0)
    train, held_out = both[EVAL:], both[:EVAL] if task in ("single", "multi", "regression", "tag") else both[:2]
    return {
        "train": tiny.write_jsonl(folder / f"{task}.jsonl", train),
        "eval": tiny.write_jsonl(folder / f"{task}-eval.jsonl", held_out),
    }
