"""Episodes as a GIF: frame after frame, with what was asked and done, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIDE, LINE, MARGIN = 192, 12, 4
MILLISECONDS, LAST = 160, 900
COLOURS = {"won": (20, 120, 60), "lost": (170, 40, 30), "goes on": (60, 60, 60)}


def write_gif(episodes: Sequence[Any], path: Path) -> Path:
    """``episodes`` have ``frames`` (one more than ``actions``), ``instruction``, ``success`` and ``seed``."""
    pictures, times = [], []
    for episode in episodes:
        for at, pixels in enumerate(episode.frames):
            last = at == len(episode.frames) - 1
            state = ("won" if episode.success else "lost") if last else "goes on"
            done = state if last else _said(episode.actions[at])
            pictures.append(_captioned(pixels, f"{episode.instruction}", f"{at}: {done}  (seed {episode.seed})", state))
            times.append(LAST if last else MILLISECONDS)
    pictures = [picture.quantize(48) for picture in pictures]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True)
    return path


def _said(action: Any) -> str:
    return action if isinstance(action, str) else ", ".join(f"{value:.2f}" for value in action)


def _captioned(pixels: Any, first: str, second: str, state: str) -> Any:
    from PIL import Image, ImageDraw

    scene = Image.fromarray(pixels).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    made = Image.new("RGB", (SIDE, SIDE + 2 * LINE + 2 * MARGIN), "white")
    made.paste(scene, (0, 0))
    draw = ImageDraw.Draw(made)
    draw.text((MARGIN, SIDE + MARGIN), first[:36], "black")
    draw.text((MARGIN, SIDE + MARGIN + LINE), second[:36], COLOURS[state])
    return made
