"""Rows about sounds."""

from __future__ import annotations

from luthier.data.formats.fields import Fields
from luthier.data.formats.texts import read_label
from luthier.types import Example

ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
"""Of files that hold sounds."""
AUDIO = ("audio", "sound", "audio_path", "audio_filepath", "wav")
TRANSCRIPT = ("text", "transcript", "transcription", "sentence", "normalized_text", "caption")


def audio_label(row: Fields) -> Example:
    return Example(row.source, sounds=row.sounds("audio"), label=read_label(row))


def audio_text(row: Fields) -> Example:
    """One text, or several of which the first is learned and all are references."""
    return Example(row.source, sounds=row.sounds("audio"), targets=row.texts("text"))
