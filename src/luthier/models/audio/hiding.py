"""Stretches of time and of pitch that are hidden from a model that hears: of a spectrogram's features in themselves, of
bare samples in the model's frames.

Axes: K rows, L frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.data.media.augment_sound import Change, Spans, places
from luthier.models.audio.sounds import Clip, Sounds
from luthier.types import Features


def masks_of(sounds: Sounds, change: Change, frames: int, clip: Clip) -> dict[str, Spans]:
    """Which of a row's ``frames``, or of its features' ``steps`` and ``bands``, are hidden."""
    heard, capacity = sounds.heard(clip), sounds.capacity
    shape = sounds.shape(heard.key)
    if len(shape) == 1:
        return {"frames": places(change.times, frames)}
    steps, values = shape[::-1] if _time_last(sounds) else shape
    if capacity is not None:  # what lies behind a shorter sound is not it
        steps = min(steps, steps * heard.samples // capacity)
    return {"steps": places(change.times, steps), "bands": places(change.bands, values // _stacked(sounds))}


def masked(sounds: Sounds, row: Features) -> Tensor:
    """A row's features, with the ``steps`` and ``bands`` of its masks set to the mean of all."""
    features, masks = sounds.features(row["sounds"][0]), row.get("masks", {})
    if "steps" not in masks:
        return features
    made, mean = features.clone(), features.mean()
    view = (made.T if _time_last(sounds) else made).unflatten(1, (_stacked(sounds), -1))
    for start, stop in masks["steps"]:
        view[start:stop] = mean
    for start, stop in masks["bands"]:
        view[:, :, start:stop] = mean
    return made


def _time_last(sounds: Sounds) -> bool:
    """As Whisper has it."""
    return sounds.capacity is not None and sounds.name == "input_features"


def _stacked(sounds: Sounds) -> int:
    """How many frames of a spectrogram lie beside each other in a step."""
    processor: Any = sounds.processor
    return int(getattr(processor, "stride", 1)) if sounds.capacity is None else 1


def frame_masks(masks: Sequence[Sequence[tuple[int, int]]], longest: int) -> Tensor:
    """(K, L): True in the spans of each row."""
    mask_KL = torch.zeros(len(masks), longest, dtype=torch.bool)
    for k, spans in enumerate(masks):
        for start, stop in spans:
            mask_KL[k, start:stop] = True
    return mask_KL
