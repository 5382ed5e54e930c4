"""What is wrong with a row of pictures (or sounds) and texts that are to be alike, and what else it is told from."""

from __future__ import annotations

from luthier.models.joined.dual import DualBackbone
from luthier.tasks.pictures import bad_pictures
from luthier.types import Example, Finding, Picture, Sound


def shown_by(example: Example) -> list[Picture | Sound]:
    """The pictures of a row, or its sounds."""
    return [*(example.images or []), *(example.sounds or [])]


def several(example: Example) -> Finding | None:
    if len(shown_by(example)) == 1:
        return None
    what = f"this row has {len(shown_by(example))} pictures"
    mend = "give one a row: captions may be several, and what it is told from is `negative_images`"
    return Finding("data.pictures", f"{example.source}:image", what, mend)


def unusable(backbone: DualBackbone, example: Example) -> list[Finding]:
    """Everything for which a row can't be encoded."""
    return _unfit(example, backbone.sounds is not None) or bad_pictures(backbone, example) or _itself(backbone, example)


def _unfit(example: Example, listens: bool) -> list[Finding]:
    """Sounds for a model that sees, or pictures for one that hears."""
    if listens and example.images:
        what, mend = "this model compares sounds with texts, and these rows have pictures", "set `model.image`"
        return [Finding("model.no-pictures", "model.name", what, mend)]
    if example.sounds and not listens:
        what, mend = "this model compares pictures with texts, and these rows have sounds", "set `model.audio`"
        return [Finding("model.no-sounds", "model.name", what, mend)]
    return []


def _itself(backbone: DualBackbone, example: Example) -> list[Finding]:
    """Negatives with the pixels of the row's own picture."""
    own = {backbone.pictures.key(one) for one in example.images or []}  # type: ignore[arg-type]
    what, mend = "this negative is the row's own picture", "leave it on one side"
    where = f"{example.source}:negative_images"
    same = [one for one in example.negative_images or [] if backbone.pictures.key(one) in own]  # type: ignore[arg-type]
    return [Finding("data.same-picture", where, what, mend) for _ in same]
