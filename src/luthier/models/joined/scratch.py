"""Arrays in a file that has no name and goes with the process: what is computed once of a run's pictures and sounds."""

from __future__ import annotations

import hashlib
import os
import tempfile

import numpy as np

Place = tuple[int, tuple[int, ...], str]
"""Where in the file an array lies, its shape and its kind."""


class Scratch:
    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this does
        self._end = 0

    def write(self, values: np.ndarray) -> Place:
        start, data = self._end, np.ascontiguousarray(values).tobytes()
        self._file.seek(start)
        self._file.write(data)
        self._end += len(data)
        return start, values.shape, values.dtype.str

    def read(self, place: Place) -> np.ndarray:
        """Not to be written to."""
        start, shape, kind = place
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        self._file.flush()
        return np.frombuffer(os.pread(self._file.fileno(), size, start), dtype=kind).reshape(shape)


def key_of(values: np.ndarray) -> str:
    """A name by content."""
    digest = hashlib.sha256(np.ascontiguousarray(values).data)
    digest.update(str(values.shape).encode())
    return digest.hexdigest()[:24]
