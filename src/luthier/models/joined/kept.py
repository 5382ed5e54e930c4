"""What towers that do not train make of the pictures or the sounds of a run, kept under their keys.

Axes: I pictures or sounds, P hidden states of the longest, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from luthier.models.joined.scratch import Place, Scratch


class Kept:
    def __post_init__(self) -> None:
        self._scratch = Scratch()
        self._states: dict[str, Place] = {}

    def remember(self, keys: Sequence[str], states: Sequence[Tensor]) -> None:
        """Keep what a tower that does not train makes of each, (P, D)."""
        for key, states_PD in zip(keys, states, strict=True):
            if key not in self._states:
                self._states[key] = self._scratch.write(states_PD.float().cpu().numpy())

    def pretend(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Remember zeros of these shapes: for a plan, which asks for sizes alone."""
        places = {shape: self._scratch.write(np.zeros(shape, np.float32)) for shape in {*shapes.values()}}
        self._states |= {key: places[shape] for key, shape in shapes.items()}

    def remembers(self, keys: Sequence[str]) -> bool:
        return bool(self._states) and self._states.keys() >= {*keys}

    def states(self, keys: Sequence[str]) -> Tensor:
        """(I, P, D), as they were kept, with zeros behind the shorter ones."""
        kept = [torch.from_numpy(self._scratch.read(self._states[key]).copy()) for key in keys]
        return torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
