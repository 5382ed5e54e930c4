"""The sounds of rows for a model that compares them with texts: what ``Pictures`` are for one that compares pictures.

Sounds are of different lengths: a batch of them is padded with NaN, so that the model knows where each ends, and runs
those of one length together (see ``models/dual_encoder.py``).

Axes: I sounds, L steps of the longest, F values a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.data.pictures import BadPicture
from luthier.data.sounds import BadSound
from luthier.models.pictures import Shown
from luthier.models.sounds import Clip, Sounds
from luthier.types import Features


@dataclass
class Recordings:
    sounds: Sounds
    tokens: int = 1
    converted: Counter[str] = field(default_factory=Counter)
    """Of pictures: none."""
    augment: None = None
    """Here each is heard as it is."""

    def prepare(self, pictures: Any) -> None:
        """There are no pictures; sounds are prepared by ``sounds``."""

    def key(self, sound: Any) -> str:
        """Raises BadPicture, in the words of a sound."""
        try:
            return self.sounds.heard(Clip(sound)).key
        except BadSound as bad:
            raise BadPicture(bad.what, bad.mend) from None

    def shown(self, rows: Sequence[Features]) -> list[Shown]:
        """The sounds of rows, in their order: keys, and that none is varied."""
        return [(key, None) for row in rows for key in row.get("pictures", ())]

    def pixels(self, shown: Sequence[Shown]) -> Tensor:
        """(I, L) or (I, L, F), NaN behind the shorter ones."""
        several = [self.sounds.features(key) for key, _ in shown]
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
