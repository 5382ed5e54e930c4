"""Conversations with pictures or sounds: one row each, in which every one has its tokens, and the prompt that asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from luthier.data.formats.audio import AUDIO
from luthier.data.formats.rows import IMAGE
from luthier.data.text.template import encode_chat
from luthier.data.text.turns import MARK, MARKS, SOUND_MARK, mark_first, marks, read_turns
from luthier.models.backbone import Backbone
from luthier.models.vision.illustrated import Illustrated
from luthier.tasks.language import features_of
from luthier.tasks.pictures import given_pictures, in_places, pictures_of, read_among_words
from luthier.types import INLINE, Example, Features, Finding, Message, Refused


def shown_row(
    backbone: Backbone, example: Example, messages: Sequence[Message], train_on: Literal["all", "last"], limit: int,
    overlong: str,
) -> Features:  # fmt: skip
    """Raises Refused where the model reads no pictures, one can't be used, or a cut would take one away."""
    where = f"{example.source}:messages"
    encoded = encode_chat(backbone.tokenizer, messages, tools=example.tools, train_on=train_on, where=where)
    row = features_of(encoded, example) | {"full_length": len(encoded.input_ids)}
    return placed(backbone, example, row, limit if overlong in ("truncate", "split") else None, where, overlong)


def placed(
    backbone: Backbone, example: Example, row: Features, limit: int | None, where: str, overlong: str = "truncate"
) -> Features:
    """A row with marks with the tokens of its pictures or sounds; where there is a ``limit`` its end is cut. Raises
    Refused where the model reads none, one can't be used, or a cut would take one away."""
    reader, images = read_among_words(backbone, example)
    room = None if limit is None else limit - reader.room_taken(images)
    if room is not None and row["full_length"] > room:
        kept = max(0, room)
        if overlong == "split" or reader.mark_id in row["input_ids"][kept:]:
            raise Refused(no_room(reader, limit, where))
        row |= {name: row[name][:kept] for name in ("input_ids", "supervised")}
        row["turn_ends"] = [end if end < kept else -1 for end in row["turn_ends"]]
    return in_places(reader, row, images, where)


def no_room(reader: Illustrated, limit: int | None, where: str) -> Finding:
    what = f"is over {limit} tokens, and its {reader.shows} can't be cut"
    return Finding("data.picture-room", where, what, "raise `max_length`, or set `overlong: drop`")


def shown_prompt(backbone: Backbone, example: Example, messages: Sequence[Message], ids: list[int]) -> Features:
    """The prompt with the pictures of the turns that ask; those of later turns are left out. Raises Refused."""
    reader, images = read_among_words(backbone, example)
    count = sum(marks(messages, mark) for mark in MARKS)
    return in_places(reader, {"input_ids": ids}, images[:count], f"{example.source}:messages")


def asked_messages(turns: Any, row: dict[str, Any]) -> Example:
    """What a person asks, with what is shown in the parts of its turns or in a column of the row. Raises Refused."""
    findings: list[Finding] = []
    parts: list[Any] = []

    def report(code: str, at: str, what: str, mend: str) -> None:
        if code != "data.empty-target":  # a turn that was asked before may be empty: nothing is learned from it
            findings.append(Finding(code, f"{INLINE}:{at}", what, mend))

    read = read_turns(turns, "messages", report, pictures=parts)
    if findings:
        raise Refused(*findings)
    images, sounds = (
        _asked(read, mark, [one for of, _, one in parts if of == mark and one is not None], row, names)
        for mark, names in ((MARK, IMAGE), (SOUND_MARK, AUDIO))
    )
    return Example(INLINE, messages=read, tools=row.get("tools"), images=images or None, sounds=sounds or None)


def _asked(read: list[Message], mark: str, named: list[Any], row: dict[str, Any], names: Sequence[str]) -> list[Any]:
    """The pictures, or the sounds, of what is asked; without a mark they stand before the first question."""
    found = given_pictures(named) or pictures_of(row, names)
    if found and not marks(read, mark):
        mark_first(read, len(found), mark)
    return found
