"""Arrays of a run in a file that has no name and goes with the process, and what towers that do not train make of a
picture or a sound, kept there under its key.

Axes: I pictures or sounds, P hidden states of the longest, D width.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Place = tuple[int, tuple[int, ...], str]
"""Where in the file an array lies, its shape and its kind."""


class Kept:
    def __post_init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this does
        self._states: dict[str, Place] = {}
        self._end = 0

    def _written(self, values: np.ndarray) -> Place:
        start, data = self._end, np.ascontiguousarray(values).tobytes()
        self._file.seek(start)
        self._file.write(data)
        self._end += len(data)
        return start, values.shape, values.dtype.str

    def _read(self, place: Place) -> np.ndarray:
        start, shape, kind = place
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        return np.frombuffer(os.pread(self._file.fileno(), size, start), dtype=kind).reshape(shape)

    def remember(self, keys: Sequence[str], states: Sequence[Tensor]) -> None:
        """Keep what a tower that does not train makes of each, (P, D)."""
        for key, states_PD in zip(keys, states, strict=True):
            if key not in self._states:
                self._states[key] = self._written(states_PD.float().cpu().numpy())

    def remembers(self, keys: Sequence[str]) -> bool:
        return bool(self._states) and self._states.keys() >= {*keys}

    def states(self, keys: Sequence[str]) -> Tensor:
        """(I, P, D), as they were kept, with zeros behind the shorter ones."""
        self._file.flush()
        kept = [torch.from_numpy(self._read(self._states[key]).copy()) for key in keys]
        return torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
