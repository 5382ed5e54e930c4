"""What the tasks that take sounds share: a row's sound as features, or what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.data.formats.audio import AUDIO
from luthier.data.media.sounds import BadSound
from luthier.models.audio.hearing import HearingBackbone
from luthier.models.audio.sounds import Clip
from luthier.models.backbone import Backbone
from luthier.types import INLINE, Example, Features, Finding, Refused, Sound


def read_sound(backbone: Backbone, example: Example, limit: int | None) -> Features:
    """Raises Refused where the model hears nothing, the row has no sound, or it can't be used."""
    if not isinstance(backbone, HearingBackbone):
        what = f"{backbone.name} hears nothing, and these rows have sounds"
        what = f"{backbone.name} hears in order to write, not to classify" if backbone.sounds is not None else what
        mend = "choose a model that hears (such as Wav2Vec2, HuBERT, AST or Whisper)"
        raise Refused(Finding("model.no-sounds", "model.name", what, mend))
    if not example.sounds:
        what = f"{backbone.name} hears sounds, and this row has none"
        raise Refused(Finding("data.no-sound", str(example.source), what, "name one in a column `audio`"))
    try:
        return backbone.sound_row(Clip(example.sounds[0]), limit)
    except BadSound as bad:
        raise Refused(bad_sound(example, bad)) from None


def bad_sound(example: Example, bad: BadSound) -> Finding:
    one = (example.sounds or [b""])[0]
    name = str(one) if isinstance(one, Path) else "sound"
    return Finding("data.sound", f"{example.source}:audio", f"{name} {bad.what}", bad.mend)


def sound_of(given: Any) -> list[Sound]:
    """A sound as a person gives it: its path, its bytes, or a row in the columns of training rows."""
    from luthier.data.formats.rows import to_example

    if not isinstance(given, dict):
        return [given if isinstance(given, bytes) else Path(str(given))]
    named = next((given[name] for name in AUDIO if given.get(name) is not None), None)
    made = to_example(INLINE, {"audio": named, "label": "-"}, "audio-label")
    if isinstance(made, list):
        raise Refused(*made)
    return made.sounds or []


def sound_example(given: Any) -> Example:
    return Example(INLINE, sounds=sound_of(given))


def told_sounds(example: Example) -> list[str]:
    """The sounds of a row as a reader should see them."""
    return [f"[{one.name}]" if isinstance(one, Path) else "[sound]" for one in example.sounds or []]
