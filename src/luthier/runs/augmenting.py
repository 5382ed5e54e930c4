"""Pictures and sounds that are varied each time they are learned.

What becomes of a row depends on the seed, the epoch and the row alone. Pictures are varied as a batch is laid out.
Sounds change a row's length, so theirs is a source of rows for the loop (see ``engine/source.py``); every speed of
every sound is prepared before the first step, in threads.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from luthier.data.media.augment import Augment
from luthier.data.media.augment_sound import Change, draw
from luthier.data.media.pictures import BadPicture
from luthier.models.audio.hearing import HearingBackbone
from luthier.models.audio.hiding import masks_of
from luthier.models.audio.recordings import Recordings
from luthier.models.audio.sounds import Clip, Sounds
from luthier.models.backbone import Backbone
from luthier.models.joined.multimodal import MultimodalBackbone
from luthier.models.vision.processed import ProcessedPictures
from luthier.objectives.online import OnlineObjective
from luthier.recipe import ResolvedRecipe
from luthier.runs.beside.reference import keeps_reference
from luthier.runs.prepared import Prepared
from luthier.types import Features, Finding, Refused


class Augmented:
    repeats = 1

    def __init__(self, prepared: Prepared, per_epoch: int):
        assert isinstance(prepared.backbone, HearingBackbone | MultimodalBackbone)
        recipe = prepared.resolved.recipe
        self.backbone, self.per_epoch, self.seed, self.how = prepared.backbone, per_epoch, recipe.seed, recipe.augment
        self.sounds = [example.sounds or [] for example in prepared.train.examples]
        self.limit = recipe.max_length if recipe.overlong == "truncate" else None
        self.report: dict[str, tuple[float, float]] = {}
        self.heard = heard_by(self.backbone)
        self.heard.prepare(Clip(sound, speed) for some in self.sounds for sound in some for speed in self.how.speeds)

    def rows(self, step: int, drawn: list[Features]) -> list[Features]:
        return [self._changed(step // self.per_epoch, row) for row in drawn]

    def _changed(self, epoch: int, row: Features) -> Features:
        changes = [self._drawn(epoch, row["row"], at, sound) for at, sound in enumerate(self.sounds[row["row"]])]
        if isinstance(self.backbone, MultimodalBackbone):
            return self._beside(self.backbone, row, changes)
        ((clip, change),) = changes
        made = self.backbone.sound_row(clip, self.limit)
        return row | made | {"masks": masks_of(self.heard, change, len(made["input_ids"]), clip)}

    def _drawn(self, epoch: int, row: int, at: int, sound: Any) -> tuple[Clip, Change]:
        how, heard = self.how, self.heard
        change = draw(
            self.seed, epoch, row, speeds=how.speeds, seconds=heard.heard(Clip(sound)).samples / heard.rate,
            time_masks=how.time_masks, time_mask=how.time_mask, band_masks=how.band_masks, band_mask=how.band_mask,
            at=at,
        )  # fmt: skip
        return Clip(sound, change.speed), change

    def _beside(self, backbone: MultimodalBackbone, row: Features, changes: list[tuple[Clip, Change]]) -> Features:
        """A row of text in or beside which are sounds: of another speed they are other tokens, and as many more."""
        if not changes:
            return row
        keys = [recordings(backbone).key(clip.sound, clip.speed) for clip, _ in changes]
        masks = [masks_of(self.heard, change, 0, clip) for clip, change in changes]
        return backbone.with_others(row, keys) | {"masks": masks}

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
    objective = prepared.objective
    if recipe.augment.pictures and (keeps_reference(objective) or isinstance(objective, OnlineObjective)):
        what = "answers are compared with what was made of a picture before: of a varied one that would be another"
        mend = "leave it out, or choose an objective without a reference (`simpo`, `orpo`, `cpo`)"
        return [Finding("recipe.combination", "augment", what, mend)]
    if not recipe.augment.sounds:
        return []
    if not isinstance(backbone, HearingBackbone | MultimodalBackbone) or backbone.sounds is None:
        what = f"{backbone.name} hears nothing: there is no sound to change"
        what = "sounds that find texts are heard as they are" if backbone.sounds is not None else what
        return [Finding("recipe.combination", "augment", what, "leave `speeds` and masks out")]
    if prepared.adaptation.solve is not None:
        what = f"`{prepared.adaptation.method}` reads each sound once: there is nothing to change from epoch to epoch"
        return [Finding("recipe.combination", "augment", what, "leave `augment` out, or choose another method")]
    if isinstance(backbone, MultimodalBackbone):
        return _check_beside(prepared, backbone)
    if recipe.augment.band_masks and backbone.hides_frames:
        what = f"{backbone.name} hears bare samples, which have no bands to hide"
        return [Finding("recipe.combination", "augment.band_masks", what, "use `time_masks` and `speeds`")]
    fastest = max(recipe.augment.speeds)
    backbone.sounds.prepare(Clip((e.sounds or [])[0], fastest) for e in prepared.train.examples)
    return [found for row in prepared.train.rows if (found := _too_fast(prepared, backbone, row, fastest))]


def _check_beside(prepared: Prepared, backbone: MultimodalBackbone) -> list[Finding]:
    """What hides stretches has a spectrogram to hide them in, and the slowest sounds have room in their rows."""
    recipe, heard = prepared.resolved.recipe, heard_by(backbone)
    if (recipe.augment.time_masks or recipe.augment.band_masks) and heard.blank().dim() == 1:
        what = "the encoder beside this text model hears bare samples, of which no stretch is hidden"
        return [Finding("recipe.combination", "augment.time_masks", what, "use `speeds` alone")]
    slowest, findings = min(recipe.augment.speeds), []
    several = [example.sounds or [] for example in prepared.train.examples]
    heard.prepare(Clip(sound, slowest) for some in several for sound in some)
    for row in prepared.train.rows:
        example, mend = prepared.train.examples[row["row"]], "leave out the lowest of `augment.speeds`, or the row"
        try:
            keys = [recordings(backbone).key(sound, slowest) for sound in example.sounds or []]
        except BadPicture as bad:
            what = f"at {slowest} times the speed {bad.what}"
            findings.append(Finding("data.sound", f"{example.source}:audio", what, mend))
            continue
        tokens = len(backbone.with_others(row, keys)["input_ids"]) if keys else 0
        if recipe.max_length and tokens > recipe.max_length:
            what = f"at {slowest} times the speed its sounds make it {tokens} tokens of {recipe.max_length}"
            findings.append(Finding("data.picture-room", f"{example.source}:audio", what, mend))
    return findings


def heard_by(backbone: HearingBackbone | MultimodalBackbone) -> Sounds:
    assert backbone.sounds is not None
    return backbone.sounds


def recordings(backbone: MultimodalBackbone) -> Recordings:
    assert isinstance(backbone.pictures, Recordings)
    return backbone.pictures


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
