"""Tags of words: how they spell entities, which spelling a data set has, and where a row breaks it.

| scheme | an entity of three words, one of one | its marks |
|---|---|---|
| bio (IOB2) | B-PER I-PER I-PER, B-PER | B begins every entity |
| iob1 | I-PER I-PER I-PER, I-PER | B only where an entity follows one of its own type |
| bioes (BILOU, IOBES) | B-PER I-PER E-PER, S-PER | E (or L) ends one, S (or U) is one alone |
| plain | NOUN | every word has a tag of its own, no entities |

Entities are read as the script conlleval reads them (Tjong Kim Sang and Buchholz 2000, CoNLL-2000), which takes all
these spellings, and broken ones, without asking which it is: seqeval's default mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

SCHEMES = ("bio", "iob1", "bioes", "plain")
OUTSIDE = "O"
MARKED = re.compile(r"[BIESLU](-.+)?")
# BILOU's letters for the same things.
SAME = {"L": "E", "U": "S"}

Entity = tuple[int, int, str]
"""Words [start, end) and their type."""


def parted(tag: str) -> tuple[str, str]:
    """ "B-PER" → ("B", "PER"); "O" → ("O", "")."""
    mark, _, kind = tag.partition("-")
    return SAME.get(mark, mark), kind


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities that tags of any entity scheme spell, in order.

    One begins at B and S, after O, E and S, and where the type changes; so I- without B- begins one.
    """
    found: list[Entity] = []
    before, kind, start = OUTSIDE, "", 0
    for at, tag in enumerate([*tags, OUTSIDE]):
        mark, now = parted(tag)
        changed = now != kind
        if before != OUTSIDE and (before in "ES" or mark in "BSO" or changed):
            found.append((start, at, kind))
        if mark != OUTSIDE and (mark in "BS" or before in "OES" or changed):
            start = at
        before, kind = mark, now
    return found


def spelled(found: Iterable[Entity], words: int) -> list[str]:
    """Tags of ``words`` words in BIO."""
    tags = [OUTSIDE] * words
    for start, end, kind in found:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


def has_entities(names: Iterable[str]) -> bool:
    """Whether tags of these names spell entities: all are O or a mark with a type, and some are the latter."""
    names = set(names) - {OUTSIDE}
    return bool(names) and all(MARKED.fullmatch(name) for name in names)


def scheme_of(rows: Sequence[Sequence[str]]) -> str:
    """Which scheme the rows have, all of them together.

    B where IOB1 would have none makes it BIO, even where other rows lack their B: those rows are mistaken.
    """
    names = {tag for tags in rows for tag in tags}
    if not has_entities(names):
        return "plain"
    if {parted(tag)[0] for tag in names} & {"E", "S"}:
        return "bioes"
    bare = False
    for tags in rows:
        for (before, kind), (mark, now) in _pairs(tags):
            if mark == "B" and (before == OUTSIDE or kind != now):
                return "bio"
            bare = bare or (mark == "I" and (before == OUTSIDE or kind != now))
    return "iob1" if bare else "bio"


def broken(tags: Sequence[str], scheme: str) -> list[tuple[int, str]]:
    """(word, what is wrong) of each place where a row breaks its scheme."""
    if scheme == "plain":
        return []
    found = []
    for at, ((before, kind), (mark, now)) in enumerate(_pairs([*tags, OUTSIDE])):
        inside = before in ("B", "I") and kind == now
        name = f"{mark}-{now}" if now else mark
        if at < len(tags) and mark in ("I", "E") and not inside and scheme != "iob1":
            found.append((at, f"{tags[at]} does not go on with an entity of its type"))
        elif scheme == "iob1" and mark == "B" and not inside:
            found.append((at, f"{name} follows no entity of its type"))
        elif scheme == "bioes" and before in ("B", "I") and not (mark in ("I", "E") and kind == now):
            found.append((at - 1, f"{tags[at - 1]} is not followed by the end of its entity"))
    return found


def _pairs(tags: Sequence[str]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Each tag's parts after those of the one before it; the first comes after O."""
    before = (OUTSIDE, "")
    for tag in tags:
        now = parted(tag)
        yield before, now
        before = now
