"""Examples as features: encoded once, rows that are too long dealt with as the recipe says, and everything counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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


def encode(objective: Any, examples: Sequence[Example], limit: int, policy: str, where: str) -> Encoded:
    """``objective.encode`` of every example. ``policy``: "error", "truncate", "drop" or "split" for rows over ``limit``
    tokens. An encoder that splits notes the ``whole`` length with each part, and the ``turn`` of one still too long.

    Each row's ``row`` is the index of its example in ``examples`` of the result.
    """
    encoded, cut = Encoded(), Cut()
    rewritten: list[int] = []
    for example in examples:
        try:
            several = objective.encode(example)
        except Refused as refused:
            encoded.findings += [found for found in refused.findings if found not in encoded.findings]
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
                encoded.findings.append(_nothing(example))
            continue
        for features in several:
            encoded.rows.append(features | {"row": len(encoded.examples)})
            encoded.tokens += len(features["input_ids"]) + len(features.get("target_ids", ()))
        encoded.examples.append(example)
    if isinstance(objective, Completes) and encoded.rows:
        encoded.rows = objective.complete(encoded.rows)
    if cut.long:
        encoded.findings.append(cut.finding(len(examples), limit, policy, where, encoded.skipped))
    if rewritten:
        encoded.findings.append(_rewritten(rewritten, where))
    return encoded


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
