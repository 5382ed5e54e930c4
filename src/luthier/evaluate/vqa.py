"""Written answers to questions about pictures: the accuracy of VQA, and exact match.

VQA accuracy (Antol et al. 2015, arXiv 1505.00468, section 3; the official code): an answer is right by a third for each
of the other people who gave it, at most 1; mean over leaving out each person in turn. It is taken where each question
has four answers at least (VQA has ten).

Before they are compared, what was written and, where people differ, what they said lose their punctuation by the
official rules; what was written is also put in lower case, with numbers up to ten as digits, without articles, and
with the apostrophe of a contraction. Exact match compares both sides after all of that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from luthier.evaluate.intervals import Metrics, mean_interval

LEAST = 4
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(DIGITS)}
ARTICLES = {"a", "an", "the"}
MARKS = [";", ":", "/", "'", "[", "]", '"', "(", ")", "=", "+", "\\", "_", ">", "<", "@", "`", ",", "?"]
PERIOD = re.compile(r"\.(?!\d)")
COMMA = re.compile(r"\d,\d")
SHORT_FORMS = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't it'd
it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll
they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
SHORT = {word.replace("'", ""): word for word in SHORT_FORMS.split()}


def without_marks(text: str) -> str:
    """A mark with a blank beside it, and each one of a text with a number such as 1,000, goes; others become blanks."""
    made = text
    for mark in MARKS:
        apart = f"{mark} " in text or f" {mark}" in text or COMMA.search(text)
        made = made.replace(mark, "" if apart else " ")
    return PERIOD.sub("", made)


def normalised(text: str) -> str:
    """As what was written is."""
    text = without_marks(text.replace("\n", " ").replace("\t", " ").strip())
    found = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(SHORT.get(word, word) for word in found if word not in ARTICLES)


def accuracy(text: str, answers: Sequence[str]) -> float:
    """0 to 1, of one question with the answers of several people."""
    given, known = normalised(text), list(answers)
    if len(set(known)) > 1:
        known = [without_marks(one) for one in known]
    same = sum(one == given for one in known)
    return sum(min(1.0, (same - (one == given)) / 3) for one in known) / len(known)


def exact(text: str, answers: Sequence[str]) -> bool:
    return normalised(text) in {normalised(one) for one in answers}


def with_intervals(written: Sequence[str], references: Sequence[Sequence[str]]) -> Metrics:
    """Means over questions, 0 to 1, with 95 % intervals."""
    pairs = list(zip(written, references, strict=True))
    found = {"exact_match": mean_interval([float(exact(*pair)) for pair in pairs])}
    if min(len(some) for some in references) >= LEAST:
        found["vqa_accuracy"] = mean_interval([accuracy(*pair) for pair in pairs])
    return found
