"""Rows about sounds."""

from __future__ import annotations

from luthier.data.fields import Fields
from luthier.data.files import kind
from luthier.data.texts import read_label
from luthier.types import Example

AUDIO = ("audio", "sound", "audio_path", "audio_filepath", "wav")
TRANSCRIPT = ("text", "transcript", "transcription", "sentence", "normalized_text", "caption")


def audio_label(row: Fields) -> Example:
    return Example(row.source, sounds=row.sounds("audio"), label=read_label(row))


def audio_text(row: Fields) -> Example:
    """One text, or several of which the first is learned and all are references."""
    found, column = row.get("text"), row.column("text")
    texts = found if isinstance(found, list) else [found]
    if not all(isinstance(text, str) for text in texts):
        row.report("data.type", column, f"must be a text or a list of texts, this is {kind(found)}")
        texts = []
    elif not texts or not all(text.strip() for text in texts):
        row.report("data.empty-target", column, "is empty: there is nothing to learn")
    return Example(row.source, sounds=row.sounds("audio"), targets=texts)
