"""A sound as it is stored to one channel of samples at the rate that a model hears, each change counted.

| it is | rule |
|---|---|
| of another rate | resampled: a windowed sinc (Kaiser), exact for the ratio of both rates |
| of several channels | their mean |
| clipped | as it is, and told |

Samples are float32, 1 is full scale. Rates are in Hz. Axes: S samples, C channels.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from luthier.types import Sound, Waveform

LONGEST_SECONDS = 4 * 3600
SILENT = 1e-4  # peak about the mean: -80 dB of full scale
FULL_SCALE, CLIPPED_RUN, CLIPPED_SHARE = 0.99, 3, 1e-3
# Of the sinc: zero crossings each side at the lower rate, pass band as a share of the lower Nyquist frequency, and the
# Kaiser window's shape: stop band 100 dB down.
CROSSINGS, PASS, KAISER = 64, 0.945, 12.0


class BadSound(Exception):
    """Why a sound can't be used: ``what`` and how to ``mend`` it."""

    def __init__(self, what: str, mend: str = ""):
        super().__init__(what)
        self.what, self.mend = what, mend


def decode(sound: Sound) -> tuple[np.ndarray, int, list[str]]:
    """Samples (S,) of one channel as they are stored, their rate, and what was done or is odd.

    Raises BadSound for what is missing, no sound, damaged, empty, silent, not finite or of no known rate.
    """
    samples_SC, rate = _stored(sound)
    notes = []
    if samples_SC.shape[0] == 0:
        raise BadSound("is empty: it has 0 samples", "leave the row out")
    if rate <= 0:
        raise BadSound("has no sample rate", "name it beside the samples: {array: ..., sampling_rate: 16000}")
    if samples_SC.shape[0] > LONGEST_SECONDS * rate:
        hours = samples_SC.shape[0] / rate / 3600
        raise BadSound(f"is {hours:.1f} hours long, over {LONGEST_SECONDS // 3600}", "cut it into parts")
    if not np.isfinite(samples_SC).all():
        bad = int((~np.isfinite(samples_SC)).sum())
        raise BadSound(f"holds {bad:,} samples that are not finite", "get the file again, or leave the row out")
    if is_clipped(samples_SC):
        notes.append("clipped")
    if samples_SC.shape[1] > 1:
        notes.append(f"{samples_SC.shape[1]} channels: their mean")
    samples_S = samples_SC.mean(axis=1, dtype=np.float32)
    peak = float(np.abs(samples_S - samples_S.mean()).max())
    if peak < SILENT:
        level = f"{20 * math.log10(peak):.0f} dB" if peak > 0 else "all samples are equal"
        raise BadSound(f"is silent ({level})", "leave the row out")
    return samples_S, rate, notes


def _stored(sound: Sound) -> tuple[np.ndarray, int]:
    """Samples (S, C) and their rate."""
    import soundfile

    if isinstance(sound, Waveform):
        return np.frombuffer(sound.samples, dtype="<f4").reshape(-1, sound.channels), sound.rate
    try:
        file: Any = io.BytesIO(sound) if isinstance(sound, bytes) else str(sound)
        if isinstance(sound, Path) and not sound.is_file():
            what = "is a folder" if sound.is_dir() else "there is no such file"
            mend = "name a sound in it" if sound.is_dir() else "paths are relative to the file that names them"
            raise BadSound(what, mend)
        start = sound[:512] if isinstance(sound, bytes) else _start(sound)
        if not start:
            raise BadSound("is an empty file", "get the file again")
        return soundfile.read(file, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        reason = str(error).rpartition(": ")[2].strip().rstrip(".")
        if _looks_like_sound(start):
            raise BadSound(f"is damaged ({reason})", "get the file again") from None
        raise BadSound(
            f"is no sound that can be read: it begins with {start[:16].decode('latin-1')!r}",
            "wav, flac, ogg and mp3 are read",
        ) from None
    except OSError as error:
        raise BadSound(f"can't be read ({error.strerror or error})", "get the file again") from None


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _looks_like_sound(start: bytes) -> bool:
    return start[:4] in (b"RIFF", b"fLaC", b"OggS", b"FORM", b"RF64", b"caff") or start[:3] == b"ID3"


def is_clipped(samples_SC: np.ndarray) -> bool:
    """Whether a share of the samples stands at the very peak in runs, near full scale: the tops are cut off."""
    loud_SC = np.abs(samples_SC)
    peak = loud_SC.max()
    if peak < FULL_SCALE:
        return False
    top_SC = loud_SC >= peak - 1e-4
    runs = top_SC[2:] & top_SC[1:-1] & top_SC[:-2]
    return bool(len(runs)) and float(runs.any(axis=1).mean()) >= CLIPPED_SHARE


def resample(samples_S: np.ndarray, old: int, new: int) -> np.ndarray:
    """(S,) at one rate → (ceil(S · new / old),) at another."""
    if old == new:
        return samples_S
    from scipy.signal import resample_poly

    divisor = math.gcd(old, new)
    up, down = new // divisor, old // divisor
    return resample_poly(samples_S, up, down, window=_sinc(up, down)).astype(np.float32)


@lru_cache(maxsize=32)
def _sinc(up: int, down: int) -> np.ndarray:
    """The low-pass filter at ``up`` times the old rate, of gain 1."""
    from scipy.signal import firwin

    most = max(up, down)
    return firwin(2 * CROSSINGS * most + 1, PASS / most, window=("kaiser", KAISER))


def faster(samples_S: np.ndarray, speed: float, rate: int) -> np.ndarray:
    """Played ``speed`` times as fast, pitch and all (Ko et al. 2015, Interspeech: Audio augmentation, section 2)."""
    return resample(samples_S, round(1000 * speed), 1000) if speed != 1 else samples_S


def cuts(samples_S: np.ndarray, rate: int, longest: float, search: float = 0.25) -> list[tuple[int, int]]:
    """Places [start, stop) of parts of at most ``longest`` seconds, that end where it is quietest: within the last
    ``search`` of a part, by the energy of 20 ms."""
    most, frame = int(longest * rate), max(1, rate // 50)
    parts, start = [], 0
    while len(samples_S) - start > most:
        first = start + int(most * (1 - search))
        window = samples_S[first : start + most]
        energy = np.square(window[: len(window) // frame * frame]).reshape(-1, frame).sum(axis=1)
        stop = first + (int(energy.argmin()) * frame + frame // 2 if len(energy) else len(window))
        parts.append((start, stop))
        start = stop
    return [*parts, (start, len(samples_S))]
