"""Words of a text, and the token that stands for each: found by the characters that a tokenizer's tokens came from.

    text       Ada Lovelace wrote it.           words  Ada, Lovelace, wrote, it, .
    tokens     [CLS] Ada Love ##lace wrote it . [SEP]
    at               1   2           4     5  6

This works for every tokenizer that tells offsets. Where it takes the space before a word into the word's token, the
token still is the first one that covers a character of the word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from luthier.types import Features, Finding, Refused

WORD = re.compile(r"\w+|[^\w\s]")

Place = tuple[int, int]
"""Characters [start, end) of a text."""


def words_of(text: str) -> list[Place]:
    """Runs of letters and digits, and every other sign alone."""
    return [found.span() for found in WORD.finditer(text)]


def joined(tokens: Sequence[str]) -> tuple[str, list[Place]]:
    """Words as one text, parted by spaces, and where each lies in it."""
    places, at = [], 0
    for token in tokens:
        places.append((at, at + len(token)))
        at += len(token) + 1
    return " ".join(tokens), places


def windows(
    tokenizer: Any, text: str, words: Sequence[Place], limit: int, *, several: bool, last: bool = False
) -> list[Features]:
    """``input_ids`` of a text with its ``words`` (indices) and where each is read, ``at``; ``full_length`` uncut.

    A word is read at its first token, or its ``last``. With ``several`` a text over ``limit`` tokens becomes windows
    that overlap by a quarter, each word read in the one where most stands on both sides of it; without, it is cut. A
    word without a token (it gave none, it shares one with the word before, or it was cut off) is in the first window
    with ``at`` None. Raises Refused for a tokenizer that tells no offsets.
    """
    if not tokenizer.is_fast:
        what = f"{type(tokenizer).__name__} does not say which characters a token came from"
        mend = "use a model whose folder has a tokenizer.json"
        raise Refused(Finding("template.slow-tokenizer", "model.name", what, mend, "words are found by characters"))
    whole = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    ids, added = whole["input_ids"], whole["special_tokens_mask"]
    read_at = tokens_of(whole["offset_mapping"], words, last=last)
    if len(ids) <= limit:
        return [{"input_ids": ids, "words": list(range(len(words))), "at": read_at, "full_length": len(ids)}]
    opens, closes = _run(added), _run(added[::-1])
    spans = _spans(opens, len(ids) - closes, limit - opens - closes, several)
    owner = [_owner(at, spans, opens, len(ids) - closes) for at in read_at]
    found: list[Features] = []
    for number, (start, end) in enumerate(spans):
        mine = [word for word, window in enumerate(owner) if window == number or (window is None and number == 0)]
        shifted = [None if owner[word] is None else read_at[word] - start + opens for word in mine]  # type: ignore
        row_ids = ids[:opens] + ids[start:end] + ids[len(ids) - closes :]
        full = len(row_ids) if several else len(ids)
        found.append({"input_ids": row_ids, "words": mine, "at": shifted, "full_length": full})
    return found


def tokens_of(offsets: Sequence[Place], words: Sequence[Place], *, last: bool = False) -> list[int | None]:
    """For each word its first (or ``last``) token; None where it has none of its own. Both in order of the text."""
    tokens = [(start, end, at) for at, (start, end) in enumerate(offsets) if end > start]
    found: list[int | None] = []
    first, taken = 0, -1
    for start, end in words:
        while first < len(tokens) and tokens[first][1] <= start:
            first += 1
        reach = first
        while last and reach + 1 < len(tokens) and tokens[reach + 1][0] < end:
            reach += 1
        own = start < end and reach < len(tokens) and tokens[reach][0] < end and tokens[reach][2] > taken
        taken = tokens[reach][2] if own else taken
        found.append(taken if own else None)
    return found


def _run(mask: Sequence[int]) -> int:
    """How many special tokens stand at the beginning."""
    return next((at for at, special in enumerate(mask) if not special), len(mask))


def _spans(first: int, after: int, room: int, several: bool) -> list[Place]:
    """Windows of ``room`` tokens over the tokens [first, after), the last one as full as the others."""
    if not several:
        return [(first, first + room)]
    step = max(1, room - room // 4)
    starts = [*range(first, after - room, step), after - room]
    return [(start, start + room) for start in starts]


def _owner(at: int | None, spans: Sequence[Place], first: int, after: int) -> int | None:
    """The window in which a token has most on both sides; the ends of the text itself cut nothing off."""
    if at is None:
        return None
    margins = {
        number: min(at - start if start > first else math.inf, end - 1 - at if end < after else math.inf)
        for number, (start, end) in enumerate(spans)
        if start <= at < end
    }
    return max(margins, key=lambda number: margins[number]) if margins else None
