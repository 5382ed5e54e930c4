"""What a transcript by CTC needs of a model: its letters, what its frames say, and when each word is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.data.media.sounds import cuts
from luthier.evaluate.ctc import align, beam_search, collapse, log_probabilities
from luthier.models.audio.hearing import HearingBackbone
from luthier.models.audio.sounds import Clip
from luthier.types import Features, Sound


def parts(backbone: HearingBackbone, sound: Sound, window: float) -> list[tuple[float, Features]]:
    """(seconds at which it begins, its row) of each part of a sound, of at most ``window`` seconds and what the model
    hears. Raises BadSound."""
    rate, capacity = backbone.sounds.rate, backbone.sounds.capacity
    window = min(window, capacity / rate) if capacity else window
    places = cuts(backbone.sounds.samples(sound), rate, window)
    if len(places) == 1:
        return [(0.0, backbone.sound_row(Clip(sound), None))]
    # What is left at the end may be too short to hold a letter.
    places = [place for place in places if place[1] - place[0] > rate // 10]
    return [(place[0] / rate, backbone.sound_row(Clip(sound, part=place), None)) for place in places]


@dataclass
class Heard:
    """A sound's frames: log probabilities (L, V) and the second at which each begins (L,), part by part."""

    logs: list[np.ndarray]
    seconds: list[np.ndarray]


@dataclass
class Letters:
    backbone: HearingBackbone

    def of(self, text: str) -> list[int]:
        """Ids of a text, in the case that the model's letters have."""
        tokenizer: Any = self.backbone.tokenizer
        letters = [one for one in tokenizer.get_vocab() if len(one) == 1 and one.isalpha()]
        if letters and not any(one.islower() for one in letters):
            text = text.upper()
        return list(tokenizer(text)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """Of ids without blanks and repeats."""
        tokenizer: Any = self.backbone.tokenizer
        return str(tokenizer.decode(list(ids), group_tokens=False)).strip() if len(ids) else ""

    def best(self, logs_LV: np.ndarray, beams: int) -> list[int]:
        if beams > 1:
            return beam_search(logs_LV, beams, self.backbone.blank_id)
        return collapse(logs_LV.argmax(-1).tolist(), self.backbone.blank_id)

    def heard(self, sounds: Sequence[Sound], window: float) -> list[Heard]:
        """Each in parts of at most ``window`` seconds. Raises BadSound."""
        several = [parts(self.backbone, sound, window) for sound in sounds]
        logs = iter(log_probabilities(self.backbone, [row for some in several for _, row in some]))
        found = []
        for some in several:
            mine = [next(logs) for _ in some]
            starts = [start for start, _ in some]
            seconds = [
                start + np.arange(len(one)) / self.backbone.frames_a_second
                for start, one in zip(starts, mine, strict=True)
            ]
            found.append(Heard(mine, seconds))
        return found

    def words(self, ids: Sequence[int], logs_LV: np.ndarray, seconds_L: np.ndarray) -> list[dict[str, Any]]:
        """Each word with its begin and end in seconds on the likeliest path, and the mean probability of its letters.

        Raises ValueError where there are too few frames.
        """
        if not len(ids):
            return []
        spans, _ = align(logs_LV, ids, self.backbone.blank_id)
        found = []
        for group in self._grouped(list(zip(ids, spans, strict=True))):
            chances = [float(logs_LV[start:stop, one].max()) for one, (start, stop) in group]
            begin, last = group[0][1][0], group[-1][1][1] - 1
            end = float(seconds_L[last]) + 1 / self.backbone.frames_a_second
            found.append({
                "word": self.text([one for one, _ in group]), "start": round(float(seconds_L[begin]), 3),
                "end": round(end, 3), "score": round(math.exp(sum(chances) / len(chances)), 4),
            })  # fmt: skip
        return found

    def _grouped(self, labelled: list[tuple[int, tuple[int, int]]]) -> list[list[tuple[int, tuple[int, int]]]]:
        groups: list[list[tuple[int, tuple[int, int]]]] = [[]]
        for one in labelled:
            if one[0] == self.backbone.between_id:
                groups.append([])
            else:
                groups[-1].append(one)
        return [group for group in groups if group]
