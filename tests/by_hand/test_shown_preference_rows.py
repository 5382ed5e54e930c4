"""Judged answers about pictures: every usual form of a row, and what each becomes; what is wrong is told at its
place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.data.formats.choose import recognise, to_example
from luthier.data.split import row_key
from luthier.types import Example, Source

SOURCE = Source("rows.jsonl", 1)
PREFERS = ("stepwise", "preference", "judged-pair", "rated-answers", "thumbs")
YES, NO = ({"role": "assistant", "content": text} for text in ("y", "n"))
SAY, UNNAMED, LOOK = {"type": "text", "text": "q"}, {"type": "image"}, {"type": "image", "image": "a.png"}
ASK = {"role": "user", "content": [LOOK, SAY]}
OTHER = {"role": "user", "content": [LOOK | {"image": "b.png"}, SAY]}
PLAIN = {"prompt": "q", "chosen": "y", "rejected": "n", "image": "a.png"}


def convert(row: dict[str, Any], prefer: tuple[str, ...] = PREFERS) -> Any:
    fmt = recognise([(SOURCE, row)], prefer=prefer)
    assert isinstance(fmt, str), fmt
    return to_example(SOURCE, row, fmt)


def said(turns: Any) -> list[tuple[str, str]]:
    assert all({*turn} == {"role", "content"} for turn in turns)
    return [(turn["role"], turn["content"]) for turn in turns]


def turned(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*content]}]


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        (PLAIN, "<image>\nq"),
        ({"question": "q", "chosen": "y", "rejected": "n", "image": {"bytes": None, "path": "a.png"}}, "<image>\nq"),
        (PLAIN | {"prompt": "see <image> q"}, "see <image> q"),
        ({"prompt": [ASK], "chosen": [YES], "rejected": [NO]}, "<image>q"),
        ({"chosen": [ASK, YES], "rejected": [ASK, NO]}, "<image>q"),
        ({"prompt": [ASK], "chosen": [ASK, YES], "rejected": [ASK, NO]}, "<image>q"),
        ({"prompt": turned(UNNAMED, SAY), "chosen": [YES], "rejected": [NO], "images": ["a.png"]}, "<image>q"),
        ({"chosen": [*turned(UNNAMED, SAY), YES], "rejected": [*turned(UNNAMED, SAY), NO], "images": ["a.png"]},
         "<image>q"),
        ({"prompt": turned({"type": "image", "text": None}, SAY | {"index": None}), "images": ["a.png"],
          "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "y"}]}], "rejected": [NO]}, "<image>q"),
        ({"conversations": [{"from": "human", "value": "<image>q"}], "chosen": {"from": "gpt", "value": "y"},
          "rejected": {"from": "gpt", "value": "n"}, "images": ["a.png"]}, "<image>q"),
        ({"messages": [ASK, YES], "rejected_response": "n"}, "<image>q"),
        ({"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "y", "rejected": "n", "image": "a.png"}, "<image>\nq"),
        ({"chosen": "\n\nHuman: q\n\nAssistant: y", "rejected": "\n\nHuman: q\n\nAssistant: n", "image": "a.png"},
         "<image>\nq"),
        (PLAIN | {"image": None, "chosen_image": "a.png", "rejected_image": "a.png"}, "<image>\nq"),
        ({"prompt": "q", "output_1": "n", "output_2": "y", "better": 2, "image": "a.png"}, "<image>\nq"),
        ({"conversation_a": [ASK, NO], "conversation_b": [ASK, YES], "winner": "model_b"}, "<image>q"),
        ({"prompt": "q", "answers": ["y", "n"], "ratings": [2, 1], "image": "a.png"}, "<image>\nq"),
        ({"prompt": [ASK], "completions": [{"response": "n", "score": 1}, {"response": "y", "score": 2}]}, "<image>q"),
    ],
)  # fmt: skip
def test_a_pair_about_a_picture(row: dict[str, Any], asked: str) -> None:
    example = convert(row)
    assert isinstance(example, Example), example
    assert said(example.messages) == [("user", asked)]
    assert (said(example.chosen), said(example.rejected)) == ([("assistant", "y")], [("assistant", "n")])
    assert example.images == [Path("a.png")]


def test_several_pictures_stand_in_the_turns_that_show_them() -> None:
    shown = [ASK, YES, {"role": "user", "content": [SAY, LOOK | {"image": "b.png"}, LOOK | {"image": "c.png"}]}]
    example = convert({"chosen": [*shown, YES], "rejected": [*shown, NO]})
    assert [text for _, text in said(example.messages)] == ["<image>q", "y", "q<image><image>"]
    assert example.images == [Path("a.png"), Path("b.png"), Path("c.png")]
    several = convert(PLAIN | {"rejected": ["n", "m"], "image": ["a.png", "b.png"]})
    assert said(several.messages) == [("user", "<image><image>\nq")]
    assert [said(turns) for turns, _ in several.worse] == [[("assistant", "m")]]


@pytest.mark.parametrize("row", [{"prompt": "q", "completion": "y"}, {"messages": [*turned(SAY), YES]}])
def test_a_thumb_about_a_picture(row: dict[str, Any]) -> None:
    example = convert(row | {"label": False, "image": "a.png"})
    assert (said(example.messages), said(example.rejected)) == ([("user", "<image>\nq")], [("assistant", "y")])
    assert (example.images, example.chosen) == ([Path("a.png")], None)


def test_a_checkable_answer_about_a_picture() -> None:
    example = convert({"prompt": "how many?", "final": 3, "image": "a.png"}, ("checkable",))
    assert (said(example.messages), example.targets) == ([("user", "<image>\nhow many?")], ["3"])
    assert example.images == [Path("a.png")]


@pytest.mark.parametrize("nothing", [None, [], ""])
def test_rows_of_a_set_may_show_nothing(nothing: Any) -> None:
    example = convert(PLAIN | {"image": nothing})
    assert (said(example.messages), example.images) == ([("user", "q")], None)


def test_the_same_answers_about_another_picture_are_another_row(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    rows = [PLAIN | {"image": str(tmp_path / name)} for name in ("a.png", "b.png", "a.png")]
    keys = [row_key(convert(row)) for row in rows]
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("row", "code", "at"),
    [
        ({"chosen": [ASK, YES], "rejected": [OTHER, NO]}, "data.pictures-differ", "rejected"),
        ({"chosen": [ASK, YES], "rejected": [*turned(SAY), NO]}, "data.pictures-differ", "rejected"),
        (PLAIN | {"chosen_image": "a.png", "rejected_image": "b.png"}, "data.pictures-differ", "rejected_image"),
        ({"prompt": "q", "chosen": [YES, ASK, YES], "rejected": [NO]}, "data.pictures-differ", "chosen"),
        (PLAIN | {"prompt": "<image><image> q"}, "data.picture-marks", "prompt"),
        (PLAIN | {"rejected": "<image> n"}, "data.picture-marks", "rejected"),
        (PLAIN | {"rejected": ["n", "an <image>"]}, "data.picture-marks", "rejected"),
        (PLAIN | {"image": 3}, "data.type", "image"),
        ({"prompt": turned(UNNAMED, SAY), "chosen": "y", "rejected": "n"}, "data.type", "prompt"),
        ({"prompt": turned({"type": "audio", "audio": "a.wav"}, SAY), "chosen": "y", "rejected": "n"}, "data.type",
         "prompt[0].content"),
        ({"prompt": "q", "steps": ["a", "b"], "labels": [1, 0], "image": "a.png"}, "data.pictures-unread", "image"),
        ({"prompt": [ASK], "steps": ["a", "b"], "labels": [1, 0]}, "data.pictures-unread", "prompt"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(row: dict[str, Any], code: str, at: str) -> None:
    found = convert(row)
    assert isinstance(found, list), found
    assert (found[0].code, found[0].where) == (code, f"rows.jsonl:1:{at}"), found
