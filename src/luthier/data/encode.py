"""Examples as features: encoded once, rows that are too long dealt with as the recipe says, and everything counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from luthier.types import Example, Features, Finding, Refused


@runtime_checkable
class Completes(Protocol):
    """An objective whose rows take something of each other: an unrelated answer."""

    def complete(self, rows: list[Features]) -> list[Features]: ...


@dataclass
class Encoded:
    """Features of the rows that are used, what was found, and what was left out and why."""

    rows: list[Features] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    longest: int = 0

    def skip(self, reason: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1


@dataclass
class Cut:
    """The rows over the limit, how many rows were made of those that were split, and the parts that were left out."""

    long: list[tuple[int, Example]] = field(default_factory=list)
    made: int = 0
    lost: int = 0
    first_lost: str = ""

    def add(self, length: int, example: Example, notes: list[dict[str, Any]]) -> None:
        self.long.append((length, example))
        turns = [note["turn"] for note in notes if "turn" in note]
        self.made += len(notes) - len(turns)
        self.lost += len(turns)
        if turns and not self.first_lost:
            self.first_lost = f"{example.source}:messages[{turns[0]}]"

    def finding(self, rows: int, limit: int, policy: str, where: str, skipped: dict[str, int]) -> Finding:
        longest, example = max(self.long, key=lambda found: found[0])
        done = {"error": "no policy is set", "truncate": "cut to the limit", "drop": "left out"}.get(policy)
        done = done or f"split at turns into {self.made} rows"
        if policy == "truncate" and "target cut off" in skipped:
            done += f"; {skipped['target cut off']} left out, because nothing of the target was left"
        if self.lost:
            done += f"; {self.lost} exchanges left out, which are too long even alone (first: {self.first_lost})"
        what = (
            f"{len(self.long)} of {rows} rows are over {limit} tokens (longest: {longest}, at {example.source}): {done}"
        )
        mend = "raise `max_length`, or set `overlong:` to truncate, drop or, for conversations, split"
        severity = {"error": "error", "split": "warning" if self.lost else "note"}.get(policy, "warning")
        return Finding("data.too-long", where, what, mend, severity=severity)


def encode(
    objective: Any, examples: Sequence[Example], limit: int, policy: str, where: str, skip: int | None = None
) -> Encoded:
    """``objective.encode`` of every example. ``policy``: "error", "truncate", "drop" or "split" for rows over ``limit``
    tokens. An encoder that splits notes the ``whole`` length with each part, and the ``turn`` of one still too long.

    Each row's ``row`` is the index of its example in ``examples`` of the result. A row that can't be used is an error,
    or, up to ``skip`` of them where that is given, left out with a warning.
    """
    encoded, cut = Encoded(), Cut()
    unusable: list[tuple[Example, list[Finding]]] = []
    rewritten: list[int] = []
    for example in examples:
        try:
            several = objective.encode(example)
        except Refused as refused:
            unusable.append((example, refused.findings))
            continue
        notes = [features.pop("note", {}) for features in several]
        long = max(note.get("whole", row["full_length"]) for note, row in zip(notes, several, strict=True))
        encoded.longest = max(encoded.longest, long)
        if any("rewritten" in note for note in notes):
            rewritten.append(len(several))
        if long > limit:
            cut.add(long, example, notes)
            if policy == "split":
                several = [features for features in several if features["full_length"] <= limit]
            if policy == "drop" or not several:
                encoded.skip("too long")
                continue
        if not any(objective.units(features) for features in several):
            if long > limit:
                encoded.skip("target cut off")
            else:
                unusable.append((example, [_nothing(example)]))
            continue
        for features in several:
            encoded.rows.append(features | {"row": len(encoded.examples)})
            encoded.tokens += len(features["input_ids"]) + len(features.get("target_ids", ()))
        encoded.examples.append(example)
    _tell_unusable(encoded, unusable, skip, where)
    if isinstance(objective, Completes) and encoded.rows:
        encoded.rows = objective.complete(encoded.rows)
    if cut.long:
        encoded.findings.append(cut.finding(len(examples), limit, policy, where, encoded.skipped))
    if rewritten:
        encoded.findings.append(_rewritten(rewritten, where))
    return encoded


def _tell_unusable(
    encoded: Encoded, unusable: list[tuple[Example, list[Finding]]], skip: int | None, where: str
) -> None:
    """What is wrong with a row alone may be skipped; what is wrong with the model or the recipe never is."""
    own = [(row, all(one.where.startswith(f"{row.source}") for one in found)) for row, found in unusable]
    bad = sum(alone for _, alone in own)
    skips = skip is not None and bad <= skip
    for (_, alone), (_, found) in zip(own, unusable, strict=True):
        told = [replace(one, severity="warning") for one in found] if skips and alone else found
        encoded.findings += [one for one in told if one not in encoded.findings]
        if skips and alone:
            encoded.skip("unusable")
    if skip is not None and not skips:
        what = f"{bad} bad rows are more than `data.max_bad_rows: {skip}`"
        encoded.findings.append(Finding("data.too-many-bad", where, what, "mend the file, or raise the cap"))


def _rewritten(rows: list[int], where: str) -> Finding:
    what = (
        f"the chat template writes earlier turns otherwise once later ones come: {len(rows)} conversations make "
        f"{sum(rows)} rows, each as the model sees it when it answers, so that every turn is learned once"
    )
    mend = "`chat.train_on: last` learns only the last turn of each, in less time"
    return Finding("template.rewrites", where, what, mend, severity="note")


def _nothing(example: Example) -> Finding:
    what = "nothing of this row is supervised"
    return Finding("data.nothing-supervised", str(example.source), what, "give it an answer, or leave the row out")
