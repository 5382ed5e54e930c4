"""What is said, as text: the rule by which a transcript is taught letter by letter, and by which both sides of an error
rate are compared.

``words``: compatible forms of letters (NFKC), small letters, punctuation and signs as spaces (an apostrophe inside a
word stays), one space between words. ``none``: as it is written, but for the spaces around it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

APOSTROPHES = "'’"


def words(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).lower()
    kept = []
    for at, letter in enumerate(plain):
        inside = 0 < at < len(plain) - 1 and plain[at - 1].isalpha() and plain[at + 1].isalpha()
        if letter in APOSTROPHES and inside:
            kept.append("'")
        else:
            kept.append(letter if unicodedata.category(letter)[0] in "LMN" else " ")
    return " ".join("".join(kept).split())


NORMALIZERS: dict[str, Callable[[str], str]] = {"words": words, "none": str.strip}
