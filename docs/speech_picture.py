"""docs/speech.svg: what a run of the recipe `transcribe-keys` heard in one sound, frame by frame.

luthier copy transcribe-keys && luthier tune transcribe-keys.yaml name=keys
python docs/speech_picture.py runs/keys [row]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import luthier
from luthier.data.media.tones import RATE, dialled
from luthier.models.audio.hearing import HearingBackbone
from luthier.tasks.letters import Letters
from luthier.types import Waveform

PICTURE = Path(__file__).resolve().parent / "speech.svg"
WIDTH, HIGH, LOW, LEFT, TOP = 720, 70, 120, 10, 26
COLOURS = ["#1b6ca8", "#c8553d", "#3a7d44", "#8a5a9e", "#b8860b", "#2a9d8f", "#d1495b", "#5c6b73", "#6a4c93", "#8d6e63"]


def drawn(run: luthier.Run, row: int) -> str:
    made = dialled(row)
    samples = made["audio"]["array"]
    backbone = run.predictor.backbone
    assert isinstance(backbone, HearingBackbone)
    letters = Letters(backbone)
    (heard,) = letters.heard([Waveform(samples.astype("<f4").tobytes(), RATE)], 20.0)
    logs_LV, seconds_L = heard.logs[0], heard.seconds[0]
    words = letters.best(logs_LV, 1)
    length = len(samples) / RATE

    def x(second: float) -> float:
        return LEFT + (WIDTH - 2 * LEFT) * second / length

    parts = [_wave(samples)]
    for letter in sorted({*words}):
        points = " ".join(
            f"{x(s):.1f},{TOP + HIGH + 20 + LOW * (1 - p):.1f}"
            for s, p in zip(seconds_L, np.exp(logs_LV[:, letter]), strict=True)
        )
        colour = COLOURS[letter % len(COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    for one, (start, stop) in zip(words, _places(logs_LV, words, backbone.blank_id), strict=True):
        middle = x(float(seconds_L[start:stop].mean()))
        parts.append(
            f'<text x="{middle:.1f}" y="{TOP + HIGH + LOW + 38}" text-anchor="middle" '
            f'fill="{COLOURS[one % len(COLOURS)]}">{letters.text([one])}</text>'
        )
    title = (
        f"dialled {made['text']}, heard {letters.text(words)}: the sound, and how probable each key is at each frame"
    )
    height = TOP + HIGH + LOW + 50
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="14"><rect width="{WIDTH}" height="{height}" fill="white"/>'
        f'<text x="{LEFT}" y="16" fill="#333">{title}</text>{"".join(parts)}</svg>\n'
    )


def _places(logs_LV: np.ndarray, labels: list[int], blank: int) -> list[tuple[int, int]]:
    from luthier.evaluate.ctc import align

    return align(logs_LV, labels, blank)[0]


def _wave(samples: np.ndarray) -> str:
    columns = np.array_split(samples, WIDTH // 2)
    most, step = float(np.abs(samples).max()), (WIDTH - 2 * LEFT) / len(columns)
    lines = []
    for at, some in enumerate(columns):
        top, bottom = (TOP + HIGH / 2 * (1 - float(value) / most) for value in (some.max(), some.min()))
        lines.append(f"M{LEFT + at * step:.1f} {top:.1f}V{bottom + 0.5:.1f}")
    return f'<path d="{"".join(lines)}" stroke="#999" fill="none"/>'


if __name__ == "__main__":
    PICTURE.write_text(
        drawn(luthier.load(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 404), encoding="utf-8"
    )
    print(f"wrote {PICTURE}")
