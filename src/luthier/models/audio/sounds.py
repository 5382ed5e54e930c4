"""The sounds of a run's rows, as the model's own feature extractor makes them: each different one computed once.

Features are kept in a file that has no name and goes with the process, under a key of their content. A ``Clip`` is a
sound, or a part of it, or one played faster or slower: each has features of its own.

Axes: S samples, L steps of features (samples, or frames of a spectrogram), F values a step, K rows.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.data.media.sounds import BadSound, decode, faster, resample
from luthier.models.joined.scratch import Place, Scratch, key_of
from luthier.types import Sound


@dataclass(frozen=True)
class Clip:
    """``speed`` times as fast; ``part`` is [start, stop) in samples at the model's rate, all of it where None."""

    sound: Sound
    speed: float = 1.0
    part: tuple[int, int] | None = None


@dataclass(frozen=True)
class Heard:
    """Where a clip's features are, and how long they and the clip are."""

    key: str
    steps: int
    samples: int


@dataclass
class Sounds:
    """``converted`` counts what decoding changed; ``clipped`` are the sounds whose tops are cut off."""

    processor: Any
    converted: Counter[str] = field(default_factory=Counter)
    clipped: list[Sound] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._scratch = Scratch()
        self._places: dict[str, Place] = {}
        self._known: dict[Clip, Heard | BadSound] = {}
        self._last: tuple[Sound, np.ndarray, list[str]] | None = None

    @property
    def rate(self) -> int:
        """Samples a second that the model hears."""
        return int(self.processor.sampling_rate)

    @property
    def name(self) -> str:
        """What a model calls its features."""
        return str(self.processor.model_input_names[0])

    @property
    def capacity(self) -> int | None:
        """Samples that features are always made of, longer sounds being cut; None where features are as long as it."""
        cuts = getattr(self.processor, "n_samples", None) or getattr(self.processor, "nb_max_samples", None)
        if cuts is None and (frames := getattr(self.processor, "max_length", None)):
            cuts = frames * self.rate // 100  # of 10 ms
        return int(cuts) if cuts else None

    def prepare(self, clips: Iterable[Clip]) -> None:
        """Decode those that are new and compute their features, in threads."""
        new = [one for one in dict.fromkeys(clips) if one not in self._known]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for one, made in zip(new, pool.map(self._made, new), strict=True):
                self._keep(one, made)

    def heard(self, clip: Clip) -> Heard:
        """Raises BadSound."""
        if clip not in self._known:
            self._keep(clip, self._made(clip))
        known = self._known[clip]
        if isinstance(known, BadSound):
            raise known
        return known

    def samples(self, sound: Sound) -> np.ndarray:
        """(S,) at the model's rate. Raises BadSound."""
        return self._decoded(sound)[0]

    def _decoded(self, sound: Sound) -> tuple[np.ndarray, list[str]]:
        """(S,) at the model's rate, and what was done to it. The last one is kept: the parts of a long sound are asked
        for one after the other."""
        last = self._last
        if last is None or last[0] != sound:
            stored_S, rate, notes = decode(sound)
            if rate != self.rate:
                notes.append(f"{rate:,} Hz: to {self.rate:,}")
            last = self._last = (sound, resample(stored_S, rate, self.rate), notes)
        return last[1:]

    def _made(self, clip: Clip) -> tuple[np.ndarray, int, list[str]] | BadSound:
        try:
            decoded_S, notes = self._decoded(clip.sound)
        except BadSound as bad:
            return bad
        samples_S = faster(decoded_S, clip.speed, self.rate)
        if clip.part:
            samples_S = samples_S[slice(*clip.part)]
        try:
            return self.features_of(samples_S), len(samples_S), notes
        except (ValueError, RuntimeError, IndexError):  # shorter than the extractor's own window
            what = f"is too short: {1000 * len(samples_S) / self.rate:.0f} ms make no features"
            return BadSound(what, "leave the row out")

    def features_of(self, samples_S: np.ndarray) -> np.ndarray:
        """(L,) samples or (L, F) frames, without padding; (F, L) of an extractor with a ``capacity``, as it is."""
        made = self.processor(samples_S, sampling_rate=self.rate, return_tensors="np")
        features = np.asarray(made[self.name][0], dtype=np.float32)
        mask_L = made.get("attention_mask")
        if mask_L is not None and self.capacity is None:
            features = features[: int(np.asarray(mask_L)[0].sum())]
        if not len(features):
            raise ValueError("no features")
        return features

    def _keep(self, clip: Clip, made: tuple[np.ndarray, int, list[str]] | BadSound) -> None:
        if isinstance(made, BadSound):
            self._known[clip] = made
            return
        features, samples, notes = made
        if clip.speed == 1 and clip.part is None:
            self.converted.update(note for note in notes if note != "clipped")
            self.clipped += [clip.sound] if "clipped" in notes else []
        key = key_of(features)
        if key not in self._places:
            self._places[key] = self._scratch.write(features)
        self._known[clip] = Heard(key, features.shape[0], samples)

    def features(self, key: str) -> Tensor:
        """(L,) or (L, F)."""
        return torch.from_numpy(self._scratch.read(self._places[key]).copy())

    def shape(self, key: str) -> tuple[int, ...]:
        """Of features."""
        return self._places[key][1]

    def batch(self, several: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features of rows as one tensor, padded with the extractor's own value behind the shorter ones, (K, L[, F]);
        and the steps of each, (K,)."""
        steps_K = torch.tensor([len(one) for one in several])
        padding = float(getattr(self.processor, "padding_value", 0.0))
        return torch.nn.utils.rnn.pad_sequence(list(several), batch_first=True, padding_value=padding), steps_K

    def blank(self, seconds: float = 1.0) -> Tensor:
        """(L,) or (L, F) of quiet noise, to ask the model what it makes of a sound."""
        draw = np.random.default_rng(0)
        return torch.from_numpy(self.features_of(draw.normal(0, 0.1, int(seconds * self.rate)).astype(np.float32)))

    def save(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)
