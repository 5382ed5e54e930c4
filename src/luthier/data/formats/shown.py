"""Pictures of rows with judged answers: what is asked shows them, and all answers are about the same ones.

While a row is read each turn holds those that its parts name, so that turns with other pictures are other turns; then
they are gathered from the prompt, or taken from the row's own column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.data.formats.conversations import check_marks, shown_by
from luthier.data.formats.fields import Fields
from luthier.data.text.turns import MARK, SHAREGPT_ROLES, marks, read_turns
from luthier.types import Example, Message

PICTURES = ("image", "picture", "images")
SHOWN = "pictures"
"""What a turn holds them under while its row is read."""
BY_SIDE = {
    "chosen_images": ("chosen_images", "chosen_image", "image_chosen"),
    "rejected_images": ("rejected_images", "rejected_image", "image_rejected"),
}  # fmt: skip
SAME = "show one picture with both answers: what is preferred is an answer, and no picture"


def read_shown(fields: Fields, value: Any, at: str) -> list[Message]:
    """Turns that hold the pictures of their parts."""
    parts: list[tuple[str, str, Any]] = []
    turns = read_turns(value, at, fields.report, SHAREGPT_ROLES, parts)
    for mark, place, _ in parts:
        if mark != MARK:
            fields.report("data.type", place, "has a sound: judged answers are read with text and pictures")
    if not fields.findings:  # else a turn may be missing
        for index, turn in enumerate(turns):
            if own := [named for _, place, named in parts if place.startswith(f"{at}[{index}].")]:
                turn[SHOWN] = own
    return turns


def differ_by_pictures(one: Message, other: Message) -> bool:
    """Whether two turns are the same but for what they show."""
    return _words(one) == _words(other)


def _words(turn: Message) -> dict[str, Any]:
    told = {key: value for key, value in turn.items() if key != SHOWN}
    return told | {"content": str(turn.get("content") or "").replace(MARK, "").strip()}


def gather_pictures(fields: Fields, example: Example) -> Example:
    """The example with the pictures of its prompt. An answer that shows one of its own is reported."""
    prompt, at = example.messages or [], fields.column("prompt")
    _same_sides(fields)
    if not fields.get("images"):  # a table has an empty list where a row has none
        fields.row = {**fields.row, fields.column("images"): None}
    parts = [(at, named) for turn in prompt for named in turn.pop(SHOWN, ())]
    sides = [("chosen", example.chosen), ("rejected", example.rejected)]
    sides += [("rejected", turns) for turns, _ in example.worse]
    own = [(name, turn.pop(SHOWN, None)) for name, turns in sides for turn in turns or ()]
    for name in dict.fromkeys(name for name, shown in own if shown):
        what = "shows a picture that the other answer does not"
        fields.report("data.pictures-differ", fields.column(name), what, SAME)
    found = shown_by(fields, MARK, parts, at)
    if found and not fields.findings:
        check_marks(fields, prompt, MARK, len(found), at)
        for name in dict.fromkeys(name for name, turns in sides if marks(turns or ())):
            what = f"an answer spells {MARK}, which stands for a picture: none can be written"
            fields.report("data.picture-marks", fields.column(name), what, "take the mark out")
    example.images = found or None
    return example


def refuse_pictures(fields: Fields, prompt: Sequence[Message]) -> None:
    """Judged steps are read as text alone: an answer about a picture would be learned without it."""
    shown = [fields.column("prompt")] if any(turn.pop(SHOWN, None) for turn in prompt) else []
    for column in [*shown, *(one for one in PICTURES if fields.row.get(one))]:
        what = "is a picture, and judged steps are read as text: it would not be seen"
        mend = "take it out if it doesn't matter; whole answers about a picture are judged by `chosen` and `rejected`"
        fields.report("data.pictures-unread", column, what, mend)


def _same_sides(fields: Fields) -> None:
    """Pictures that a row names for each side are the row's where they are the same."""
    first, second = (fields.get(name) for name in BY_SIDE)
    if first is None and second is None:
        return
    if first != second:
        what = "names other pictures than the chosen answer has"
        fields.report("data.pictures-differ", fields.column("rejected_images"), what, SAME)
    elif not fields.get("images"):
        fields.row = {**fields.row, fields.column("images"): first}
