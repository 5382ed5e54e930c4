"""Examples as features: encoded once, rows that are too long dealt with as the recipe says, and everything counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.types import Example, Features, Finding, Refused

NAMED = 20


@dataclass
class Encoded:
    """Features of the rows that are used, what was found, and what was left out and why."""

    rows: list[Features] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    longest: int = 0


def encode(objective: Any, examples: Sequence[Example], limit: int, policy: str, where: str) -> Encoded:
    """``objective.encode`` of every example. ``policy``: "error", "truncate" or "drop" for rows over ``limit`` tokens.

    Each row's ``row`` is the index of its example in ``examples`` of the result.
    """
    encoded = Encoded()
    overlong: list[tuple[int, Example]] = []
    for example in examples:
        try:
            several = objective.encode(example)
        except Refused as refused:
            encoded.findings += [found for found in refused.findings if found not in encoded.findings]
            continue
        long = max(features["full_length"] for features in several)
        encoded.longest = max(encoded.longest, long)
        if long > limit:
            overlong.append((long, example))
            if policy == "drop":
                encoded.skipped["too long"] = encoded.skipped.get("too long", 0) + 1
                continue
        taught = any(objective.units(features) for features in several)
        if not taught and long > limit:
            encoded.skipped["target cut off"] = encoded.skipped.get("target cut off", 0) + 1
            continue
        if not taught:
            encoded.findings.append(_nothing(example))
            continue
        for features in several:
            encoded.rows.append(features | {"row": len(encoded.examples)})
            encoded.tokens += len(features["input_ids"]) + len(features.get("target_ids", ()))
        encoded.examples.append(example)
    if overlong:
        encoded.findings.append(_too_long(overlong, len(examples), limit, policy, where, encoded.skipped))
    return encoded


def _too_long(
    overlong: list[tuple[int, Example]], rows: int, limit: int, policy: str, where: str, skipped: dict[str, int]
) -> Finding:
    longest, example = max(overlong, key=lambda found: found[0])
    done = {"error": "no policy is set", "truncate": "cut to the limit", "drop": "left out"}[policy]
    if policy == "truncate" and "target cut off" in skipped:
        done += f"; {skipped['target cut off']} left out, because nothing of the target was left"
    what = f"{len(overlong)} of {rows} rows are over {limit} tokens (longest: {longest}, at {example.source}): {done}"
    mend = "raise `max_length`, or set `overlong:` to truncate or drop"
    return Finding("data.too-long", where, what, mend, severity="error" if policy == "error" else "warning")


def _nothing(example: Example) -> Finding:
    what = "nothing of this row is supervised"
    return Finding("data.nothing-supervised", str(example.source), what, "give it an answer, or leave the row out")
