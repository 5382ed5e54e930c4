"""The sounds of rows for a model in which they stand where pictures do: what ``Pictures`` are for one that sees.

Sounds are of different lengths: a batch of them is padded with NaN, so that the model knows where each ends, and runs
those of one length together (see ``ComposedModel.seen``).

Axes: I sounds, L steps of the longest, F values a step, P hidden states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.data.media.pictures import BadPicture
from luthier.data.media.sounds import BadSound
from luthier.models.audio.hiding import masked
from luthier.models.audio.sounds import Clip, Heard, Sounds
from luthier.models.joined.kept import Kept
from luthier.types import Features


@dataclass
class Recordings(Kept):
    """``frames`` says how many hidden states the model gives for so many steps of features. ``in_time``: they follow
    the sound, so that of an extractor that always fills the same length those behind the sound's end are left out."""

    sounds: Sounds
    tokens: int = 1
    converted: Counter[str] = field(default_factory=Counter)
    """Of pictures: none."""
    augment: None = None
    """How pictures are varied. What varies a sound stands in its row: another key, and ``masks``."""
    frames: Callable[[int], int] = int
    in_time: bool = False
    _heard: dict[str, Heard] = field(default_factory=dict)

    def prepare(self, pictures: Any) -> None:
        """There are no pictures; sounds are prepared by ``sounds``."""

    def key(self, sound: Any, speed: float = 1.0) -> str:
        """Raises BadPicture, in the words of a sound."""
        try:
            heard = self.sounds.heard(Clip(sound, speed))
        except BadSound as bad:
            raise BadPicture(bad.what, bad.mend) from None
        capacity = self.sounds.capacity
        if self.in_time and capacity is not None and heard.samples > capacity:
            seconds = (heard.samples / self.sounds.rate, capacity / self.sounds.rate)
            raise BadPicture("is {:.1f} s long, and this model hears {:.1f} s".format(*seconds), "cut it")
        self._heard.setdefault(heard.key, heard)
        return heard.key

    def length(self, key: str) -> int:
        """How many hidden states are the sound's."""
        heard, capacity = self._heard[key], self.sounds.capacity
        whole = self.frames(heard.steps)
        return -(-whole * heard.samples // capacity) if self.in_time and capacity is not None else whole

    def shown(self, rows: Sequence[Features]) -> list[tuple[str, Any]]:
        """The sounds of rows, in their order: keys, and which stretches of each are hidden."""
        several = ((row.get("pictures", ()), row.get("masks")) for row in rows)
        return [one for keys, masks in several for one in zip(keys, masks or [None] * len(keys), strict=True)]

    def pixels(self, shown: Sequence[tuple[str, Any]]) -> Tensor:
        """(I, L) or (I, L, F), NaN behind the shorter ones."""
        several = [masked(self.sounds, {"sounds": [key], "masks": masks or {}}) for key, masks in shown]
        return torch.nn.utils.rnn.pad_sequence(several, batch_first=True, padding_value=float("nan"))

    @property
    def blank(self) -> Tensor:
        return self.sounds.blank()[None]

    def save(self, folder: Path) -> None:
        self.sounds.save(folder)


def lengths_of(features: Tensor) -> Tensor:
    """(I,): the steps of each, without the NaN behind them."""
    first = features if features.dim() == 2 else features[..., 0]
    return (~first.isnan()).sum(1)
