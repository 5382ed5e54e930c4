"""Rows that say which answer is better: two answers to one prompt, or one answer with a thumb up or down.

| row | becomes |
|---|---|
| chosen, rejected; prompt, system, tools, margin, scores? | messages, chosen, rejected (and worse), margin |
| prompt and completion, or messages; label (true, false) | messages, and chosen or rejected |

and images, of those that its turns or a column of its own show (``data/formats/shown.py``).

An answer is a text, a turn or a list of turns. Where it brings the prompt with it (turns, or a transcript as in
HH-RLHF) the turns that both have in common are the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from luthier.data.files.reading import kind
from luthier.data.files.transcripts import apart, is_transcript, read_transcript
from luthier.data.formats.fields import Fields
from luthier.data.formats.shown import BY_SIDE, PICTURES, SAME, differ_by_pictures, gather_pictures, read_shown
from luthier.data.text.turns import check_order
from luthier.types import Example, Message

LEAVE_OUT = "leave the row out, or set `data.on_bad_row: skip`"
PROMPT = ("prompt", "question", "instruction", "conversations", "conversation", "messages")
PAIR = {
    "chosen": ("chosen", "chosen_response", "preferred", "messages"),
    "rejected": ("rejected", "rejected_response", "dispreferred"),
}
BESIDE_PAIR = {
    "prompt": PROMPT, "system": ("system",), "tools": ("tools",), "images": PICTURES, "margin": ("margin",), **BY_SIDE,
    "score_chosen": ("score_chosen", "chosen_score", "chosen_rating"),
    "score_rejected": ("score_rejected", "rejected_score", "rejected_rating"),
}  # fmt: skip
TURNS = ("messages", "conversations")  # which hold both
THUMBS = {
    "prompt": ("prompt", *TURNS), "completion": ("completion", "response", "answer", "output", *TURNS),
    "label": ("label", "thumb", "liked", "desirable"),
}  # fmt: skip
BESIDE_THUMBS = {"system": ("system",), "tools": ("tools",), "images": PICTURES}
UP, DOWN = (
    {"true", "1", "up", "good", "yes", "desirable", "👍"},
    {"false", "0", "-1", "down", "bad", "no", "undesirable", "👎"},
)


def preference(fields: Fields) -> Example:
    prompt = [] if fields.column("prompt") == fields.column("chosen") else read_prompt(fields)
    more = _several(fields)
    given = [_side(fields, name) for name in ("chosen", "rejected")]
    if fields.findings:
        return Example(fields.source)
    if not prompt and isinstance(given[0], list) and isinstance(given[1], str):  # a conversation, and another last turn
        given[1] = [*given[0][:-1], {"role": "assistant", "content": given[1]}]
    sides = [_transcript(side, prompt) for side in given]
    margin = _margin(fields)
    made = paired(fields, prompt, sides[0], sides[1], margin, "chosen", "rejected")
    made.worse = [(as_turns(text), None) for text in more]
    return gather_pictures(fields, made)


def thumbs(fields: Fields) -> Example:
    turns = read_prompt(fields)
    at = fields.column("completion")
    if at != fields.column("prompt"):
        turns += as_turns(_side(fields, "completion"))
    liked, column = fields.get("label"), fields.column("label")
    told = str(liked).strip().lower().removesuffix(".0")
    if told not in UP | DOWN:
        fields.report("data.thumb", column, f"must be true or false, this is {liked!r}", LEAVE_OUT)
    if not fields.findings:
        check_order(turns, at, fields.report)
    if fields.findings:
        return Example(fields.source)
    asked, answer = turns[:-1], turns[-1:]
    check_prompt(fields, asked, at)
    example = Example(fields.source, messages=asked, tools=fields.tools())
    example.chosen, example.rejected = (answer, None) if told in UP else (None, answer)
    return gather_pictures(fields, example)


def paired(
    fields: Fields, prompt: list[Message], chosen: list[Message], rejected: list[Message], margin: float | None,
    *names: str,
) -> Example:  # fmt: skip
    """The example of a pair; ``names`` are ours for the two sides. What both begin with joins the prompt."""
    columns = [fields.column(name) for name in names]
    if not prompt and not any(turn["role"] == "user" for turn in (*chosen, *rejected)):
        mend = "give `prompt`, or answers that begin with it (turns, or a text with `Human:` and `Assistant:`)"
        fields.report("data.no-prompt", columns[0], "nothing says what was asked", mend)
        return Example(fields.source)
    if any(side[:1] and side[0]["role"] != "assistant" for side in (chosen, rejected)):
        whole = [_joined(prompt, side) for side in (chosen, rejected)]
        same = apart(*whole)
        prompt, chosen, rejected = whole[0][:same], whole[0][same:], whole[1][same:]
    if any(side[:1] and side[0]["role"] != "assistant" for side in (chosen, rejected)):
        if chosen and rejected and differ_by_pictures(chosen[0], rejected[0]):
            what = "shows other pictures than the chosen answer has"
            fields.report("data.pictures-differ", columns[1], what, SAME)
        else:
            what = "the two differ in what the user says, and not in the answer alone"
            fields.report("data.prompt-differs", columns[1], what, LEAVE_OUT)
        return Example(fields.source)
    for side, column in zip((chosen, rejected), columns, strict=True):
        if any(
            turn["role"] == "assistant" and not turn.get("tool_calls") and not (turn["content"] or "").strip()
            for turn in side
        ):
            fields.report(
                "data.empty-target", column, "an answer is empty: the model would learn to say nothing", LEAVE_OUT
            )
        elif not fields.findings:
            check_order([*prompt, *side], column, fields.report)
    check_prompt(fields, prompt, fields.column("prompt"))
    if not fields.findings and list(map(_said, chosen)) == list(map(_said, rejected)):
        fields.report(
            "data.same-answers", columns[1], "both answers are the same: there is nothing to prefer", LEAVE_OUT
        )
    return Example(
        fields.source, messages=prompt, tools=fields.tools(), chosen=chosen, rejected=rejected, margin=margin
    )


def read_prompt(fields: Fields) -> list[Message]:
    """What was asked, as turns: a text is the user's; a system turn is put before it. Empty where there is none."""
    given = fields.get("prompt")
    turns: list[Message] = []
    if isinstance(given, list):
        turns = read_shown(fields, given, fields.column("prompt"))
    elif isinstance(given, str) and is_transcript(given):
        turns = read_transcript(given.rstrip().removesuffix("Assistant:"))
    elif given is not None:
        turns = [{"role": "user", "content": fields.text("prompt")}]
    if turns and (system := fields.optional("system")):
        turns = [{"role": "system", "content": system}, *turns]
    return turns


def check_prompt(fields: Fields, prompt: Sequence[Message], at: str) -> None:
    asked = [turn for turn in prompt if turn["role"] == "user"]
    if not fields.findings and any(not (turn["content"] or "").strip() for turn in asked):
        fields.report("data.empty-text", at, "a turn of the user's is empty", LEAVE_OUT)


def as_turns(side: str | list[Message]) -> list[Message]:
    return side if isinstance(side, list) else [{"role": "assistant", "content": side}]


def _side(fields: Fields, name: str) -> str | list[Message]:
    value = fields.get(name)
    if isinstance(value, dict):
        fields.row = {**fields.row, fields.column(name): [value]}
        value = [value]
    if isinstance(value, list):
        return read_shown(fields, value, fields.column(name))
    if value is None:
        fields.report("data.empty-target", fields.column(name), "is null: there is no answer", LEAVE_OUT)
        return ""
    return fields.text(name, target=True)


def _several(fields: Fields) -> list[str]:
    """Of several rejected texts the first stays the row's; returned are the others. None may be empty or the chosen."""
    value, column = fields.get("rejected"), fields.column("rejected")
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        return []
    for at, text in enumerate(value):
        if not text.strip():
            fields.report("data.empty-target", f"{column}[{at}]", "is empty: there is nothing to learn", LEAVE_OUT)
        elif text.strip() == str(fields.get("chosen")).strip():
            fields.report("data.same-answers", f"{column}[{at}]", "is the chosen answer itself", LEAVE_OUT)
    fields.row = {**fields.row, column: value[0]}
    return value[1:]


def _transcript(side: str | list[Message], prompt: list[Message]) -> list[Message]:
    """A text is an answer, or a dialogue that brings its own prompt."""
    if isinstance(side, str) and not prompt and is_transcript(side):
        return read_transcript(side)
    return as_turns(side)


def _joined(prompt: list[Message], side: list[Message]) -> list[Message]:
    """Turns that begin with the prompt have it once, also where it is only their last question."""
    if side[:1] and side[0]["role"] == "assistant":
        return [*prompt, *side]
    asked = [turn for turn in prompt if turn["role"] != "system"]
    if any(side[at : at + len(asked)] == asked for at in range(len(side))):
        lead = [turn for turn in prompt if turn["role"] == "system"] if side[0]["role"] != "system" else []
        return [*lead, *side]
    return [*prompt, *side]


def _said(turn: Message) -> Any:
    return {**turn, "content": (turn["content"] or "").strip()}


def _margin(fields: Fields) -> float | None:
    """By how much the chosen answer is better, where the row tells it."""
    scores = [number(fields, name) for name in ("score_chosen", "score_rejected", "margin")]
    margin = scores[2] if scores[0] is None or scores[1] is None else scores[0] - scores[1]
    if not fields.findings and margin is not None and margin <= 0:
        what = "both answers have the same score" if margin == 0 else "the rejected answer has the higher score"
        code = "data.tie" if margin == 0 else "data.score-order"
        fields.report(code, fields.column("margin" if scores[0] is None else "score_chosen"), what, LEAVE_OUT)
    return margin


def number(fields: Fields, name: str) -> float | None:
    """A finite number, or None where there is none; anything else is reported."""
    value, at = fields.get(name), fields.column(name)
    return None if value is None else finite(fields, value, at)


def finite(fields: Fields, value: Any, at: str) -> float:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        told = repr(value) if isinstance(value, str | int | float) else kind(value)
        fields.report("data.type", at, f"must be a finite number, this is {told}")
        return 0.0
    return found
