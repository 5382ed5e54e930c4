"""Pictures and sounds that are varied each time they are learned.

What becomes of a row depends on the seed, the epoch and the row alone. Pictures are varied as a batch is laid out.
Sounds change a row's length, so theirs is a source of rows for the loop (see ``engine/source.py``); every speed of
every sound is prepared before the first step, in threads.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from luthier.data.augment import Augment
from luthier.data.augment_sound import draw
from luthier.models.backbone import Backbone
from luthier.models.hearing import HearingBackbone
from luthier.models.hiding import masks_of
from luthier.models.processed import ProcessedPictures
from luthier.models.sounds import Clip
from luthier.recipe import ResolvedRecipe
from luthier.runs.prepared import Prepared
from luthier.types import Features, Finding, Refused


class Augmented:
    repeats = 1

    def __init__(self, prepared: Prepared, per_epoch: int):
        assert isinstance(prepared.backbone, HearingBackbone)
        recipe = prepared.resolved.recipe
        self.backbone, self.per_epoch, self.seed, self.how = prepared.backbone, per_epoch, recipe.seed, recipe.augment
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


def give_augment(resolved: ResolvedRecipe, backbone: Backbone) -> None:
    """Raises Refused where there is nothing that would be varied: no pictures, or vectors that are computed once."""
    wanted = resolved.recipe.augment.pictures
    if not wanted:
        return
    if backbone.pictures is None:
        what = f"`augment` would vary pictures, and {backbone.name} reads none"
        raise Refused(Finding("recipe.combination", "augment", what, "remove it, or choose a model of pictures"))
    if isinstance(backbone.pictures, ProcessedPictures):
        what = f"{backbone.name} has its pictures made by a processor of its own, in which none is varied"
        raise Refused(Finding("recipe.combination", "augment", what, "remove it, or compose a model of two towers"))
    if "features" in resolved.methods.options:
        what = "`features` reads each picture once: none of its variations would be learned"
        raise Refused(Finding("recipe.combination", "augment", what, "use `freeze`, `lora` or `full`"))
    backbone.pictures.augment = Augment(resolved.recipe.seed, **wanted)


def augments(prepared: Prepared) -> bool:
    """Whether a row is another each time it is learned."""
    pictures = prepared.backbone.pictures
    return _sounds(prepared) or (pictures is not None and pictures.augment is not None)


def _sounds(prepared: Prepared) -> bool:
    return prepared.backbone.sounds is not None and prepared.resolved.recipe.augment.sounds


def augmented(prepared: Prepared, rows: list[Any], batch_size: int) -> Augmented | None:
    return Augmented(prepared, math.ceil(len(rows) / batch_size)) if _sounds(prepared) else None


def check_augmenting(prepared: Prepared) -> list[Finding]:
    """What the recipe wants of sounds can be done with this model, and transcripts fit the fastest of them."""
    recipe, backbone = prepared.resolved.recipe, prepared.backbone
    if not recipe.augment.sounds:
        return []
    if not isinstance(backbone, HearingBackbone):
        what = f"{backbone.name} hears nothing: there is no sound to change"
        what = "sounds beside a text model are heard as they are" if backbone.sounds is not None else what
        return [Finding("recipe.combination", "augment", what, "leave `speeds` and masks out")]
    if prepared.adaptation.solve is not None:
        what = f"`{prepared.adaptation.method}` reads each sound once: there is nothing to change from epoch to epoch"
        return [Finding("recipe.combination", "augment", what, "leave `augment` out, or choose another method")]
    if recipe.augment.band_masks and backbone.hides_frames:
        what = f"{backbone.name} hears bare samples, which have no bands to hide"
        return [Finding("recipe.combination", "augment.band_masks", what, "use `time_masks` and `speeds`")]
    fastest = max(recipe.augment.speeds)
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
    mend = "leave the row out, or the highest of `augment.speeds`"
    return Finding("data.ctc-infeasible", f"{example.source}:audio", what, mend, "no path says it")
