"""Train and eval by the content of each row, and what stands twice.

A row's side depends on its own content and the seed alone: identical rows never stand on both sides, and adding
rows moves none of those that were there.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence

from luthier.types import Example, Finding, Message, Picture, Refused, Sound, Waveform

SHOWN = 20
# Signs that end a sentence or quote it. Brackets and minus signs stay: they tell ":)" from ":(" and "-5" from "5".
END_PUNCTUATION = ".,;:!?…\"'“”‘’«»"


def split(
    examples: Sequence[Example], share: float, seed: int, purpose: str = "eval"
) -> tuple[list[Example], list[Example]]:
    """(train, eval), with about ``share`` of the distinct contents in eval, each side in the order of the file.

    Args:
        share: 0 (no eval) up to but without 1.
        seed: another seed draws another split.
        purpose: what the second side is for; another purpose draws another split under the same seed, so that what
            is left of one split can be split again.

    Raises:
        Refused: the share is out of range (``data.split-share``), or one side is left empty (``data.split-empty``).
    """
    if not 0 <= share < 1:
        raise Refused(Finding("data.split-share", purpose, f"must be at least 0 and below 1, this is {share}"))
    if share == 0:
        return list(examples), []
    train: list[Example] = []
    held_out: list[Example] = []
    for example in examples:
        (held_out if _fraction(example, seed, purpose) < share else train).append(example)
    if not train or not held_out:
        side = purpose if train else "train"
        what = f"a share of {share} of {len(examples)} rows leaves no row to {side}"
        raise Refused(Finding("data.split-empty", purpose, what, "change the share or the seed, or name an eval file"))
    return train, held_out


def content_key(example: Example) -> str:
    """The sha256 of what a row says, without its label: equal for texts that differ in case, spaces or end signs.

    Of a row with judged answers it is of what is asked.
    """
    parts = [normalised(part) for part in (example.text, example.question) if part is not None]
    if example.targets and isinstance(example.label, float):  # a score is of both texts
        parts += map(normalised, example.targets)
    parts += [_held(one) for one in [*(example.images or []), *(example.sounds or [])]]
    parts += [repr(step.state) for step in example.steps or [] if step.state is not None]
    parts += [_normalised_turn(turn) for turn in example.messages or []]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def row_key(example: Example) -> str:
    """The same, with both answers where a row has two: rows that ask the same may well have other answers."""
    answers = [" ".join(map(_normalised_turn, side)) for side in (example.chosen, example.rejected) if side]
    return "\0".join([content_key(example), *sorted(answers)])


def _held(one: Picture | Sound) -> str:
    """What a picture's or a sound's file holds, or its path where it can't be read, which is told elsewhere."""
    if isinstance(one, Waveform):
        return hashlib.sha256(one.samples + str(one.rate).encode()).hexdigest()
    try:
        held = one if isinstance(one, bytes) else one.read_bytes()
    except OSError:
        return str(one)
    return hashlib.sha256(held).hexdigest()


def normalised(text: str) -> str:
    """Casefolded, white space collapsed, without sentence punctuation at the ends (unless there is nothing else)."""
    plain = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return plain.strip(END_PUNCTUATION + " ") or plain


def duplicates(train: Sequence[Example], held_out: Sequence[Example]) -> list[Finding]:
    """Rows that stand twice: on both sides (error ``data.leak``), in train with different labels (warning
    ``data.conflict``) or in train with the same label or target (warning ``data.duplicates``)."""
    groups: dict[str, list[Example]] = {}
    for example in train:
        groups.setdefault(row_key(example), []).append(example)
    repeated = [group for group in groups.values() if len(group) > 1]
    conflicts = [group for group in repeated if len({_label(example) for example in group}) > 1]
    # A document may well stand in several rows, each with another summary.
    repeats = [group for group in repeated if len({(_label(e), tuple(e.targets or ())) for e in group}) == 1]
    leaks = [(example, groups[key][0]) for example in held_out if (key := row_key(example)) in groups]
    return [*_leaks(leaks, len(held_out)), *_conflicts(conflicts), *_repeats(repeats, len(train))]


def _leaks(pairs: list[tuple[Example, Example]], total: int) -> list[Finding]:
    why = "the evaluation would measure memory"
    mend = "remove it from one side, or let Luthier split by content"
    findings = [
        Finding("data.leak", str(example.source), f"this eval row also stands in train at {twin.source}", mend, why)
        for example, twin in pairs[:SHOWN]
    ]
    if len(pairs) > SHOWN:
        findings.append(
            Finding("data.leak", "eval", f"{len(pairs)} of {total} eval rows also stand in train", mend, why)
        )
    return findings


def _conflicts(groups: list[list[Example]]) -> list[Finding]:
    findings = []
    for first, *others in groups[:SHOWN]:
        other = next(example for example in others if _label(example) != _label(first))
        what = f"labelled {first.label!r} here and {other.label!r} at {other.source}, with the same content"
        if first.chosen or first.rejected:
            what = f"the answer that is preferred here is the other one at {other.source}"
        elif first.label is None:
            what = f"marked otherwise here than at {other.source}, with the same content"
        findings.append(Finding("data.conflict", str(first.source), what, "keep one of them", severity="warning"))
    if len(groups) > SHOWN:
        what = f"{len(groups)} contents have rows with different labels"
        findings.append(Finding("data.conflict", "data", what, "keep one label of each", severity="warning"))
    return findings


def _repeats(groups: list[list[Example]], total: int) -> list[Finding]:
    if not groups:
        return []
    count = sum(len(group) - 1 for group in groups)
    sample = "; ".join(_places(group) for group in groups[:3])
    what = f"{count} of {total} rows of train repeat another, e.g. {sample}"
    why = "a row that stands n times weighs n times"
    return [Finding("data.duplicates", str(groups[0][1].source), what, "remove the repeats", why, severity="warning")]


def _places(group: Iterable[Example]) -> str:
    return " = ".join(str(example.source) for example in list(group)[:3])


def _label(example: Example) -> str:
    if example.chosen or example.rejected:
        return " ".join(map(_normalised_turn, example.chosen or []))
    label = sorted(example.label) if isinstance(example.label, list) else example.label
    return json.dumps(label if example.spans is None else example.spans)


def _normalised_turn(turn: Message) -> str:
    calls = json.dumps(turn["tool_calls"], sort_keys=True) if turn.get("tool_calls") else ""
    return f"{turn['role']}\1{normalised(turn.get('content') or '')}\1{calls}"


def _fraction(example: Example, seed: int, purpose: str) -> float:
    """A number in [0, 1) drawn from the content, the seed and the purpose."""
    salt = "" if purpose == "eval" else f"{purpose}\0"
    digest = hashlib.sha256(f"{salt}{seed}\0{content_key(example)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
