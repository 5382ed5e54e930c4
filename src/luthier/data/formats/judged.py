"""Rows in which several answers were judged: the better of two is named, or each has a rating.

| row | becomes |
|---|---|
| two answers (output_1 and output_2, ...), better; prompt, system? | messages, chosen, rejected |
| prompt, answers with ratings | messages, the best as chosen, the worst as rejected, margin, worse |
"""

from __future__ import annotations

from typing import Any

from luthier.data.files.reading import kind
from luthier.data.formats.fields import Fields
from luthier.data.formats.preferences import LEAVE_OUT, PROMPT, as_turns, finite, paired, read_prompt
from luthier.data.formats.shown import PICTURES, gather_pictures, read_shown
from luthier.types import Example, Message

STEMS = ("output", "answer", "response", "completion", "conversation")


def _columns(*suffixes: str) -> tuple[str, ...]:
    return tuple(f"{stem}_{suffix}" for suffix in suffixes for stem in STEMS)


JUDGED = {
    "first": _columns("0", "1", "a", "A"), "second": _columns("2", "b", "B", "1"),
    "better": ("better", "preference", "winner", "choice", "better_response_id", "label"),
}  # fmt: skip
BESIDE_JUDGED = {"prompt": PROMPT, "system": ("system",), "tools": ("tools",), "images": PICTURES}
RATED = {"prompt": PROMPT, "answers": ("answers", "responses", "completions", "outputs", "candidates")}
BESIDE_RATED = {
    "ratings": ("ratings", "scores", "rewards"), "system": ("system",), "tools": ("tools",), "images": PICTURES,
}  # fmt: skip
TEXTS = ("response", "text", "content", "answer", "completion", "output")
RATINGS = ("rating", "score", "overall_score", "reward")
TIES = {"tie", "tie (bothbad)", "both", "equal", "same", "neither", "none", "draw", "0.5", "1.5", "nan", ""}


def judged_pair(fields: Fields) -> Example:
    prompt = read_prompt(fields)
    sides = [_answer(fields, fields.get(name), fields.column(name)) for name in ("first", "second")]
    better = _better(fields)
    if fields.findings or better is None:
        return Example(fields.source)
    names = ("first", "second") if better == 0 else ("second", "first")
    return gather_pictures(fields, paired(fields, prompt, sides[better], sides[1 - better], None, *names))


def _better(fields: Fields) -> int | None:
    """0 where the first is named, 1 for the second: by its number or letter, its column's name, or `model_a`."""
    value, column = fields.get("better"), fields.column("better")
    told = str("" if value is None else value).strip().lower().removesuffix(".0")
    columns = [fields.column(name).lower() for name in ("first", "second")]
    ends = [name.rpartition("_")[2] for name in columns]
    known = [
        {name, end, f"model_{end}", f"response_{end}", word}
        for name, end, word in zip(columns, ends, ("first", "second"), strict=True)
    ]
    for at in (0, 1):
        if told in known[at]:
            return at
    if told in TIES or (told == "0" and "0" not in ends):
        fields.report("data.tie", column, f"is {value!r}: neither answer is preferred", LEAVE_OUT)
    else:
        mend = f"name one of the two: {ends[0]} or {ends[1]}"
        fields.report("data.judgement", column, f"{value!r} names neither answer", mend)
    return None


def rated_answers(fields: Fields) -> Example:
    """Of several answers the best, the worst, and all others that are worse than the best; of equal ones the first.

    Those that are as good as the best are counted.
    """
    prompt, column = read_prompt(fields), fields.column("answers")
    given = fields.get("answers")
    if not isinstance(given, list) or len(given) < 2:
        there = f"a list of {len(given)}" if isinstance(given, list) else kind(given)
        fields.report("data.type", column, f"must be a list of at least two answers, this is {there}", LEAVE_OUT)
        return Example(fields.source)
    ratings = _ratings(fields, given, column)
    texts = [_answer(fields, _text(one), f"{column}[{at}]") for at, one in enumerate(given)]
    if fields.findings:
        return Example(fields.source)
    best, worst = ratings.index(max(ratings)), ratings.index(min(ratings))
    if ratings[best] == ratings[worst]:
        fields.report("data.tie", column, f"all {len(given)} answers are rated {ratings[best]:g}", LEAVE_OUT)
        return Example(fields.source)
    made = paired(fields, prompt, texts[best], texts[worst], ratings[best] - ratings[worst], "answers", "answers")
    others = [(text, ratings[best] - rating) for at, (text, rating) in enumerate(zip(texts, ratings, strict=True))
              if at not in (best, worst)]  # fmt: skip
    made.worse = [(text, apart) for text, apart in others if apart and text[0]["role"] == "assistant"]
    made.passed_over = len(others) - len(made.worse)
    return gather_pictures(fields, made)


def _ratings(fields: Fields, given: list[Any], column: str) -> list[float]:
    listed = fields.get("ratings")
    if listed is None:
        listed = [
            next((one[key] for key in RATINGS if key in one), None) if isinstance(one, dict) else None for one in given
        ]
    at = fields.column("ratings") if fields.get("ratings") is not None else column
    if not isinstance(listed, list) or len(listed) != len(given):
        there = f"{len(listed)} ratings" if isinstance(listed, list) else kind(listed)
        fields.report("data.type", at, f"must have a number for each of the {len(given)} answers, this is {there}")
        return [0.0] * len(given)
    return [finite(fields, one, f"{at}[{number}]") for number, one in enumerate(listed)]


def _text(one: Any) -> Any:
    return next((one[key] for key in TEXTS if key in one), None) if isinstance(one, dict) and "role" not in one else one


def _answer(fields: Fields, value: Any, at: str) -> list[Message]:
    if isinstance(value, list | dict):
        return read_shown(fields, [value] if isinstance(value, dict) else value, at)
    if not isinstance(value, str):
        fields.report("data.type", at, f"must be text or turns, this is {kind(value)}")
    elif not value.strip():
        fields.report("data.empty-target", at, "an answer is empty: the model would learn to say nothing", LEAVE_OUT)
    return as_turns(value if isinstance(value, str) else "")
