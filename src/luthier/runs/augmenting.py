"""Sounds that are changed each time they are learned: a source of rows for the loop (see ``engine/source.py``).

What becomes of a row depends on the seed, the epoch and the row alone. Every speed of every sound is prepared before
the first step, in threads.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from luthier.data.augment import draw
from luthier.models.hearing import HearingBackbone
from luthier.models.hiding import masks_of
from luthier.models.sounds import Clip
from luthier.runs.prepared import Prepared
from luthier.types import Features, Finding


class Augmented:
    repeats = 1

    def __init__(self, prepared: Prepared, per_epoch: int):
        assert isinstance(prepared.backbone, HearingBackbone)
        recipe = prepared.resolved.recipe
        self.backbone, self.per_epoch, self.seed, self.how = prepared.backbone, per_epoch, recipe.seed, recipe.sound
        self.sounds = [(example.sounds or [])[0] for example in prepared.train.examples]
        self.limit = recipe.max_length if recipe.overlong == "truncate" else None
        self.report: dict[str, tuple[float, float]] = {}
        clips = [Clip(sound, speed) for sound in self.sounds for speed in self.how.speeds]
        self.backbone.sounds.prepare(clips)

    def rows(self, step: int, drawn: list[Features]) -> list[Features]:
        return [self._changed(step // self.per_epoch, row) for row in drawn]

    def _changed(self, epoch: int, row: Features) -> Features:
        sound, how, sounds = self.sounds[row["row"]], self.how, self.backbone.sounds
        change = draw(
            self.seed, epoch, row["row"], speeds=how.speeds, seconds=sounds.heard(Clip(sound)).samples / sounds.rate,
            time_masks=how.time_masks, time_mask=how.time_mask, band_masks=how.band_masks, band_mask=how.band_mask,
        )  # fmt: skip
        clip = Clip(sound, change.speed)
        made = self.backbone.sound_row(clip, self.limit)
        return row | made | {"masks": masks_of(sounds, change, len(made["input_ids"]), clip)}

    def state(self, step: int) -> dict[str, Tensor]:
        return {}

    def restore(self, step: int, tensors: dict[str, Tensor]) -> None:
        pass


def augments(prepared: Prepared) -> bool:
    return prepared.backbone.sounds is not None and prepared.resolved.recipe.sound.changes


def augmented(prepared: Prepared, rows: list[Any], batch_size: int) -> Augmented | None:
    return Augmented(prepared, math.ceil(len(rows) / batch_size)) if augments(prepared) else None


def check_augmenting(prepared: Prepared) -> list[Finding]:
    """What the recipe wants of sounds can be done with this model, and transcripts fit the fastest of them."""
    recipe, backbone = prepared.resolved.recipe, prepared.backbone
    if not recipe.sound.changes:
        return []
    if not isinstance(backbone, HearingBackbone):
        what = f"{backbone.name} hears nothing: there is no sound to change"
        return [Finding("recipe.combination", "sound", what, "leave `sound` out")]
    if prepared.adaptation.solve is not None:
        what = f"`{prepared.adaptation.method}` reads each sound once: there is nothing to change from epoch to epoch"
        return [Finding("recipe.combination", "sound", what, "leave `sound` out, or choose another method")]
    if recipe.sound.band_masks and backbone.hides_frames:
        what = f"{backbone.name} hears bare samples, which have no bands to hide"
        return [Finding("recipe.combination", "sound.band_masks", what, "use `time_masks` and `speeds`")]
    fastest = max(recipe.sound.speeds)
    backbone.sounds.prepare(Clip((e.sounds or [])[0], fastest) for e in prepared.train.examples)
    return [found for row in prepared.train.rows if (found := _too_fast(prepared, backbone, row, fastest))]


def _too_fast(prepared: Prepared, backbone: HearingBackbone, row: Features, fastest: float) -> Finding | None:
    needed = row.get("least", 0)
    example = prepared.train.examples[row["row"]]
    if not needed:
        return None
    frames = len(backbone.sound_row(Clip((example.sounds or [])[0], fastest), None)["input_ids"])
    if frames >= needed:
        return None
    what = f"its letters need {needed} frames, and at {fastest} times the speed there are {frames}"
    mend = "leave the row out, or the highest of `sound.speeds`"
    return Finding("data.ctc-infeasible", f"{example.source}:audio", what, mend, "no path says it")
