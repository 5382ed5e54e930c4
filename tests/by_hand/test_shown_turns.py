"""Conversations with pictures: parts and marks, pictures in a column, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny
from luthier.data.formats.rows import to_example
from luthier.data.text.parts import in_parts
from luthier.types import Example, Source

SOURCE = Source("rows.jsonl", 1)
ANSWER = {"role": "assistant", "content": "red"}
LOOK, SAY = {"type": "image", "image": "a.png"}, {"type": "text", "text": "what?"}


def read(row: dict[str, Any], fmt: str = "messages") -> Any:
    return to_example(SOURCE, row, fmt)


def told(example: Any) -> tuple[list[str], list[Path]]:
    assert isinstance(example, Example), example
    return [turn["content"] for turn in example.messages or []], list(example.images or [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "part",
    [LOOK, {"type": "image", "path": "a.png"}, {"type": "image_url", "image_url": {"url": "a.png"}},
     {"type": "image", "url": "a.png"}],
)  # fmt: skip
def test_a_part_names_its_picture(part: dict[str, Any]) -> None:
    found = read({"messages": [{"role": "user", "content": [SAY, part, SAY]}, ANSWER]})
    assert told(found) == (["what?<image>what?", "red"], [Path("a.png")])


def test_pictures_between_turns_stay_in_order() -> None:
    more = [SAY, LOOK | {"image": "b.png"}, LOOK | {"image": "c.png"}]
    turns = [{"role": "user", "content": [LOOK, SAY]}, ANSWER, {"role": "user", "content": more}, ANSWER]
    texts, images = told(read({"messages": turns}))
    assert texts == ["<image>what?", "red", "what?<image><image>", "red"]
    assert images == [Path("a.png"), Path("b.png"), Path("c.png")]


@pytest.mark.parametrize("column", ["image", "images"])
def test_pictures_in_a_column(column: str) -> None:
    """For parts without a name, for marks in texts, and before the first question where there is no mark (LLaVA's)."""
    named = {column: ["a.png", "b.png"]}
    parts = [{"role": "user", "content": [{"type": "image"}, SAY, {"type": "image"}]}, ANSWER]
    assert told(read({"messages": parts} | named))[0] == ["<image>what?<image>", "red"]
    marks = [{"from": "human", "value": "<image>\nwhat<image>?"}, {"from": "gpt", "value": "red"}]
    assert told(read({"conversations": marks} | named, "sharegpt"))[0] == ["<image>\nwhat<image>?", "red"]
    plain = [{"role": "system", "content": "s"}, {"role": "user", "content": "what?"}, ANSWER]
    assert told(read({"messages": plain} | named))[0] == ["s", "<image><image>\nwhat?", "red"]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, "data.type"),
        ({"messages": [{"role": "user", "content": [LOOK, {"type": "image"}]}, ANSWER]}, "data.type"),
        ({"messages": [{"role": "user", "content": [LOOK, {"type": "audio"}]}, ANSWER]}, "data.type"),
        ({"messages": [{"role": "user", "content": "<image> <image>"}, ANSWER], "images": ["a.png"]},
         "data.picture-marks"),
        ({"messages": [{"role": "user", "content": "what?"}, ANSWER], "images": [3]}, "data.type"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(row: dict[str, Any], code: str) -> None:
    (finding,) = read(row)
    assert finding.code == code
    assert finding.where.startswith("rows.jsonl:1:")


def test_a_template_gets_what_it_takes() -> None:
    """One that writes texts alone is given texts, one that takes parts alone parts, also where there is no picture."""
    words = tiny.tokenizer(encoder=False)
    turns = [{"role": "user", "content": "<image>what?"}, {"role": "assistant", "content": "red"}]
    assert in_parts(words, turns) == turns
    words.chat_template = tiny.IN_PARTS
    made = in_parts(words, turns)
    assert made[0]["content"] == [{"type": "image"}, {"type": "text", "text": "what?"}]
    assert made[1]["content"] == [{"type": "text", "text": "red"}]
    words.chat_template = (
        "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
        "{{ p['text'] if p['type'] == 'text' else '[i]' }}{% endfor %}{% endif %}{% endfor %}"
    )
    assert [type(turn["content"]) for turn in in_parts(words, turns)] == [list, str]
