"""A few rows of each class, drawn by their content, so that another order of the file draws the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from luthier.data.split import content_key
from luthier.types import Example, Finding


def few(examples: Sequence[Example], count: int, seed: int) -> tuple[list[Example], list[Finding]]:
    """``count`` rows of each label, or all that it has, in the order of the file.

    Classes with fewer are told (warning ``data.few``); rows that have no single class are an error, and all stay.
    """
    classes: dict[str | float, list[int]] = {}
    for at, example in enumerate(examples):
        if not isinstance(example.label, str | int):
            what = "`data.few_shot` counts rows of each class, and this row has no single class"
            return list(examples), [Finding("recipe.combination", str(example.source), what, "leave it out")]
        classes.setdefault(example.label, []).append(at)
    chosen: set[int] = set()
    for those in classes.values():
        chosen |= {*sorted(those, key=lambda at: (_drawn(examples[at], seed), at))[:count]}
    short = {label: len(those) for label, those in classes.items() if len(those) < count}
    findings = []
    if short:
        told = ", ".join(f"{label} ({rows})" for label, rows in list(short.items())[:5])
        what = f"{len(short)} of {len(classes)} classes have fewer rows than `data.few_shot: {count}`: {told}"
        findings.append(Finding("data.few", "data.train", what, "lower it, or add rows", severity="warning"))
    return [examples[at] for at in sorted(chosen)], findings


def _drawn(example: Example, seed: int) -> bytes:
    return hashlib.sha256(f"few\0{seed}\0{content_key(example)}".encode()).digest()
