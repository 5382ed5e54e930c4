"""Conversations with pictures: one row each, in which every picture has its tokens, and the prompt that asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from luthier.data.template import encode_chat
from luthier.data.turns import mark_first, marks, read_turns
from luthier.models.backbone import Backbone
from luthier.tasks.language import features_of
from luthier.tasks.pictures import given_pictures, in_places, pictures_of, read_among_words
from luthier.types import INLINE, Example, Features, Finding, Message, Refused


def shown_row(
    backbone: Backbone, example: Example, messages: Sequence[Message], train_on: Literal["all", "last"], limit: int,
    overlong: str,
) -> Features:  # fmt: skip
    """Raises Refused where the model reads no pictures, one can't be used, or a cut would take one away."""
    reader, images = read_among_words(backbone, example)
    where = f"{example.source}:messages"
    encoded = encode_chat(backbone.tokenizer, messages, tools=example.tools, train_on=train_on, where=where)
    row = features_of(encoded, example) | {"full_length": len(encoded.input_ids)}
    room = limit - reader.room_taken(images)
    if overlong in ("truncate", "split") and row["full_length"] > room:
        kept = max(0, room)
        if overlong == "split" or reader.mark_id in row["input_ids"][kept:]:
            what = f"is over {limit} tokens, and its pictures can't be cut"
            mend = "raise `max_length`, or set `overlong: drop`"
            raise Refused(Finding("data.picture-room", where, what, mend))
        row |= {name: row[name][:kept] for name in ("input_ids", "supervised")}
        row["turn_ends"] = [end if end < kept else -1 for end in row["turn_ends"]]
    return in_places(reader, row, images, where)


def shown_prompt(backbone: Backbone, example: Example, messages: Sequence[Message], ids: list[int]) -> Features:
    """The prompt with the pictures of the turns that ask; those of later turns are left out. Raises Refused."""
    reader, images = read_among_words(backbone, example)
    return in_places(reader, {"input_ids": ids}, images[: marks(messages)], f"{example.source}:messages")


def asked_messages(turns: Any, row: dict[str, Any]) -> Example:
    """What a person asks, with pictures in the parts of its turns or in a column of the row. Raises Refused."""
    findings: list[Finding] = []
    parts: list[Any] = []

    def report(code: str, at: str, what: str, mend: str) -> None:
        if code != "data.empty-target":  # a turn that was asked before may be empty: nothing is learned from it
            findings.append(Finding(code, f"{INLINE}:{at}", what, mend))

    read = read_turns(turns, "messages", report, pictures=parts)
    if findings:
        raise Refused(*findings)
    images = given_pictures([one for _, one in parts if one is not None]) or pictures_of(row)
    if images and not marks(read):
        mark_first(read, len(images))
    return Example(INLINE, messages=read, tools=row.get("tools"), images=images or None)
