"""Small verifiers: whether an answer is what was expected. One function each, one line in ``VERIFIERS``.

Each takes the answer as text, what is expected, and its setting (a pattern, a marker), and gives a number: 1 right,
0 not.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable

# 12, -3.5, 1,234.5 and .5; a hyphen after a digit or a letter is no sign.
NUMBER = re.compile(r"(?:(?<![\w.])[-\u2212])?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<!\d)\.\d+")
WORD = re.compile(r"\w+")
CLOSE = 1e-6  # of the expected number


def normalised(text: str) -> str:
    """Compatibility forms made one (NFKC), casefolded, white space collapsed, no punctuation at the ends."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip(" .,;:!?\"'`*") or plain


def last_number(text: str) -> float | None:
    """The number that stands last in a text; None where there is none. ``"so 1,200 - 3 = 1,197."`` gives 1197."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def exact(answer: str, expected: str, setting: str) -> float:
    """The answer is the expected text, once both are normalised."""
    return float(normalised(answer) == normalised(expected))


def contains(answer: str, expected: str, setting: str) -> float:
    """The expected text stands in the answer, as whole words, once both are normalised."""
    said, wanted = (" ".join(["", *WORD.findall(normalised(text)), ""]) for text in (answer, expected))
    return float(wanted in said)


def number(answer: str, expected: str, setting: str) -> float:
    """The number that stands last in the answer is the one that stands last in what is expected."""
    found, wanted = last_number(answer), last_number(expected)
    return float(found is not None and wanted is not None and math.isclose(found, wanted, rel_tol=CLOSE, abs_tol=CLOSE))


def form(answer: str, expected: str, setting: str) -> float:
    """The whole answer, less white space around it, matches the pattern; a dot matches a line's end too."""
    return float(re.fullmatch(setting, answer.strip(), re.DOTALL) is not None)


def after(answer: str, expected: str, setting: str) -> float:
    """What stands after the marker, to the end of its line, is what is expected: a number if that is one, else a text.

    The first marker counts, as in GSM8K's own evaluation (Cobbe et al. 2021, arXiv 2110.14168), so that an answer which
    lists several results gains nothing; nor does a line with several numbers. What is expected may have the marker too.
    """
    _, marked, rest = answer.partition(setting)
    said = rest.partition("\n")[0]
    wanted = expected.partition(setting)[2] or expected
    if last_number(wanted) is None:
        return float(bool(marked)) * exact(said, wanted, setting)
    return float(len(NUMBER.findall(said)) == 1) * number(said, wanted, setting)


VERIFIERS: dict[str, Callable[[str, str, str], float]] = {
    "exact": exact, "contains": contains, "number": number, "format": form, "after": after,
}  # fmt: skip
