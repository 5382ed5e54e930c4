"""An answer as steps: what stands between two separators, and the token at which each step ends.

| row | becomes |
|---|---|
| prompt, steps (or completions), labels (or step_ratings); system?, tools? | messages, chosen, stepwise |

A label is true or false, 1 or 0, + or -, or a share between (of continuations that came out right; Wang et al. 2024,
Math-Shepherd, arXiv 2312.08935); a rating is 1, 0 or -1, of which 0, neutral, counts as right (Lightman et al. 2023,
PRM800K, arXiv 2305.20050, appendix F). Null is a step that nobody judged: it is read and not learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.data.files.reading import kind
from luthier.data.formats.fields import Fields
from luthier.data.formats.preferences import LEAVE_OUT, PROMPT, check_prompt, read_prompt
from luthier.data.formats.shown import refuse_pictures
from luthier.types import Example

SEPARATOR = "\n"
STEPWISE = {
    "prompt": PROMPT, "steps": ("steps", "completions"), "labels": ("labels", "step_labels", "step_ratings"),
}  # fmt: skip
BESIDE_STEPWISE = {"system": ("system",), "tools": ("tools",)}
RATINGS = "step_ratings"
RIGHT, WRONG = {"true", "+", "good", "correct"}, {"false", "-", "bad", "wrong", "incorrect"}


def step_texts(text: str, separator: str) -> list[str]:
    """The steps of an answer; what is blank between two separators is none. An answer without any is one step."""
    return [one for one in text.split(separator) if one.strip()] or [text]


def step_ends(tokenizer: Any, ids: Sequence[int], separator: str) -> list[int]:
    """For each of ``step_texts`` of the answer ``ids`` (at least one), the token at which it ends: that with the end of
    the separator after it; of the last step the last token, the terminator where there is one."""
    pieces = _text(tokenizer, ids).split(separator)
    told = [at for at, one in enumerate(pieces) if one.strip()]
    return [_first_with(tokenizer, ids, separator, at + 1) for at in told[:-1]] + [len(ids) - 1]


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _first_with(tokenizer: Any, ids: Sequence[int], separator: str, count: int) -> int:
    """The first token up to which the text has ``count`` separators, by halving: their number never falls."""
    low, high = 0, len(ids) - 1
    while low < high:
        middle = (low + high) // 2
        if _text(tokenizer, ids[: middle + 1]).count(separator) >= count:
            high = middle
        else:
            low = middle + 1
    return low


def stepwise(fields: Fields) -> Example:
    prompt, column = read_prompt(fields), fields.column("steps")
    refuse_pictures(fields, prompt)
    steps, labels = fields.get("steps"), fields.get("labels")
    for name, given in (("steps", steps), ("labels", labels)):
        if not isinstance(given, list) or not given:
            there = "an empty list" if isinstance(given, list) else kind(given)
            fields.report("data.type", fields.column(name), f"must be a list, one for each step, this is {there}")
    if fields.findings:
        return Example(fields.source)
    for at, text in enumerate(steps):
        if not isinstance(text, str):
            fields.report("data.type", f"{column}[{at}]", f"must be a text, this is {kind(text)}")
        elif not text.strip():
            fields.report("data.empty-target", f"{column}[{at}]", "is empty: there is no step", LEAVE_OUT)
    if len(steps) != len(labels):
        what = f"has {len(labels)} for {len(steps)} steps"
        fields.report("data.step-labels", fields.column("labels"), what, "give one for each step, null where none is")
    found = [_label(fields, one, at) for at, one in enumerate(labels)]
    if not fields.findings and all(one is None for one in found):
        fields.report("data.step-labels", fields.column("labels"), "has no label: no step is judged", LEAVE_OUT)
    check_prompt(fields, prompt, fields.column("prompt"))
    if fields.findings:
        return Example(fields.source)
    chosen = [{"role": "assistant", "content": SEPARATOR.join(steps)}]
    told = list(zip(steps, found, strict=True))
    return Example(fields.source, messages=prompt, tools=fields.tools(), chosen=chosen, stepwise=told)


def _label(fields: Fields, given: Any, at: int) -> float | None:
    """How right a step is, from 0 to 1; None where nobody said."""
    column = fields.column("labels")
    told = str(given).strip().lower()
    if given is None or told in RIGHT | WRONG:
        return None if given is None else float(told in RIGHT)
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = float("nan")
    if column == RATINGS:
        if value in (-1, 0, 1):
            return float(value >= 0)
        mend = "a rating is 1, 0 or -1, and null where there is none"
    elif 0 <= value <= 1:
        return value
    else:
        mend = f"a label is true or false, + or -, or from 0 to 1; ratings of -1, 0 and 1 belong in `{RATINGS}`"
    fields.report("data.step-labels", f"{column}[{at}]", f"is {given!r}", mend)
    return None
