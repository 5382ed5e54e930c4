"""What was made of sounds before a model hears them, and whether it has letters for what is said."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from luthier.types import Finding

if TYPE_CHECKING:
    from luthier.runs.prepared import Prepared

SHOWN = 20
MOST_UNKNOWN = 0.2


def sounds_converted(prepared: Prepared) -> list[Finding]:
    """How many sounds are stored otherwise than as one channel at the model's rate, and which are clipped."""
    sounds = prepared.backbone.sounds
    if sounds is None:
        return []
    findings = []
    if sounds.converted:
        told = ", ".join(f"{count} {what}" for what, count in sorted(sounds.converted.items()))
        what = f"some sounds are not stored as one channel at {sounds.rate:,} Hz: {told}"
        findings.append(Finding("data.sounds-converted", "data.train", what, severity="note"))
    clipped = set(sounds.clipped)
    rows = [e for e in (*prepared.train.examples, *prepared.evaluation.examples) if clipped & set(e.sounds or ())]
    why, mend = "the tops of its waves are cut off", "record it again with less gain, or keep it if all are like that"
    for example in rows[:SHOWN]:
        what = "is clipped"
        findings.append(Finding("data.sound-clipped", f"{example.source}:audio", what, mend, why, severity="warning"))
    if len(rows) > SHOWN:
        what = f"{len(rows)} sounds are clipped"
        findings.append(Finding("data.sound-clipped", "data", what, mend, why, severity="warning"))
    return findings


def letters_known(prepared: Prepared) -> list[Finding]:
    """The model has letters for its transcripts: what it has none for it can't write."""
    rows = prepared.train.rows
    if not rows or "labels" not in rows[0]:
        return []
    tokenizer = prepared.backbone.tokenizer
    unknown, lacking, letters = 0, Counter[str](), 0
    first = None
    for row in rows:
        missing = sum(label == tokenizer.unk_token_id for label in row["labels"])
        letters, unknown = letters + len(row["labels"]), unknown + missing
        if missing:
            first = first or prepared.train.examples[row["row"]].source
            known = tokenizer.get_vocab()
            lacking.update(c for c in row["references"][0] if not {c, c.upper()} & known.keys() and not c.isspace())
    if first is None:
        return []
    told = " ".join(letter for letter, _ in lacking.most_common(12))
    what = f"{unknown} of {letters} letters of the training rows are not among the model's {len(tokenizer)}: {told}"
    mend = "write numbers and signs out in words, or choose a model of this language"
    severity = "error" if unknown > MOST_UNKNOWN * letters else "warning"
    return [Finding("model.letters", str(first), what, mend, "it can't write them", severity=severity)]
