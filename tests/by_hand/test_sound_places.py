"""Sounds of different lengths in φ, and in the parts of a conversation, on numbers that can be followed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from luthier.data.formats.rows import to_example
from luthier.data.text.parts import in_parts
from luthier.fusion import projection
from luthier.fusion.common import Sizes, by_row, mean_of
from luthier.types import Example, Source

SOURCE = Source("rows.jsonl", 1)
ANSWER = {"role": "assistant", "content": "red"}
HEAR, SAY = {"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "what?"}


class Plain(nn.Module):
    """A projection that changes nothing, so that what was joined can be seen."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def fused(pool: int | None = None, tokens: int | None = None) -> Any:
    made = projection.Fusion(projection.Options(pool=pool, tokens=tokens), Sizes(1, 2, 7, sounds=True))
    made.project = Plain()  # type: ignore[assignment]
    return made


def test_neighbours_are_laid_end_to_end() -> None:
    """Of the sounds (1, 2, 3) and (4,), by twos: (1, 2), (3, 0) and (4, 0); what lies behind a sound's end, here 9, is
    never read."""
    states_IPD = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [9.0], [9.0]]])
    made_NE = fused(pool=2).made(states_IPD, torch.tensor([3, 1]))
    assert made_NE.tolist() == [[1, 2], [3, 0], [4, 0]]


def test_so_many_tokens_of_each() -> None:
    """Two tokens of (1, 2, 3, 5): the means 1.5 and 4; of (4,) its one hidden state."""
    states_IPD = torch.tensor([[[1.0], [2.0], [3.0], [5.0]], [[4.0], [9.0], [9.0], [9.0]]])
    made_NE = fused(tokens=2).made(states_IPD, torch.tensor([4, 1]))
    assert made_NE.tolist() == [[1.5], [4.0], [4.0]]


@pytest.mark.parametrize(
    ("pool", "tokens", "states", "expected"),
    [(None, None, 11, 3), (4, None, 11, 3), (1, None, 11, 11), (None, 3, 2, 2)],
)
def test_how_many_tokens_a_sound_is(pool: int | None, tokens: int | None, states: int, expected: int) -> None:
    """By fives where nothing is said; never more than there are hidden states."""
    assert fused(pool, tokens).tokens(states) == expected


def test_what_is_behind_a_sound_is_masked() -> None:
    """Row 0 has the sounds (1, 2) and (3,), row 2 has (4, 5): means 1.5, 3 and 4.5."""
    states_IPD = torch.tensor([[[1.0], [2.0]], [[3.0], [9.0]], [[4.0], [5.0]]])
    lengths_I, rows_I = torch.tensor([2, 1, 2]), torch.tensor([0, 0, 2])
    laid, mask = by_row(states_IPD, rows_I, 3, lengths_I)
    assert [row[keep].flatten().tolist() for row, keep in zip(laid, mask, strict=True)] == [[1, 2, 3], [], [4, 5]]
    assert mean_of(states_IPD, lengths_I).flatten().tolist() == [1.5, 3.0, 4.5]


def read(row: dict[str, Any], fmt: str = "messages") -> Any:
    return to_example(SOURCE, row, fmt)


def told(example: Any) -> tuple[list[str], list[Any]]:
    assert isinstance(example, Example), example
    return [turn["content"] for turn in example.messages or []], list(example.sounds or [])


@pytest.mark.parametrize(
    "part",
    [HEAR, {"type": "audio", "path": "a.wav"}, {"type": "audio_url", "audio_url": {"url": "a.wav"}},
     {"type": "audio", "url": "a.wav"}, {"type": "audio", "audio": {"path": "a.wav"}}],
)  # fmt: skip
def test_a_part_names_its_sound(part: dict[str, Any]) -> None:
    found = read({"messages": [{"role": "user", "content": [SAY, part, SAY]}, ANSWER]})
    assert told(found) == (["what?<|audio|>what?", "red"], [Path("a.wav")])


def test_sounds_between_turns_stay_in_order() -> None:
    more = [SAY, HEAR | {"audio": "b.wav"}, HEAR | {"audio": "c.wav"}]
    turns = [{"role": "user", "content": [HEAR, SAY]}, ANSWER, {"role": "user", "content": more}, ANSWER]
    texts, sounds = told(read({"messages": turns}))
    assert texts == ["<|audio|>what?", "red", "what?<|audio|><|audio|>", "red"]
    assert sounds == [Path("a.wav"), Path("b.wav"), Path("c.wav")]


@pytest.mark.parametrize("column", ["audio", "audios"])
def test_sounds_in_a_column(column: str) -> None:
    """For parts without a name, for marks in texts as LLaMA-Factory has them, and before the first question."""
    named = {column: ["a.wav", "b.wav"]}
    parts = [{"role": "user", "content": [{"type": "audio"}, SAY, {"type": "audio"}]}, ANSWER]
    assert told(read({"messages": parts} | named))[0] == ["<|audio|>what?<|audio|>", "red"]
    marks = [{"from": "human", "value": "<audio>\nwhat<audio>?"}, {"from": "gpt", "value": "red"}]
    assert told(read({"conversations": marks} | named, "sharegpt"))[0] == ["<|audio|>\nwhat<|audio|>?", "red"]
    plain = [{"role": "system", "content": "s"}, {"role": "user", "content": "what?"}, ANSWER]
    assert told(read({"messages": plain} | named))[0] == ["s", "<|audio|><|audio|>\nwhat?", "red"]


def test_a_word_in_angle_brackets_is_a_word_where_there_is_no_sound() -> None:
    page = [{"role": "user", "content": "what is <audio> in HTML?"}, ANSWER]
    assert told(read({"messages": page})) == (["what is <audio> in HTML?", "red"], [])


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "audio"}, SAY]}, ANSWER]}, "data.type"),
        ({"messages": [{"role": "user", "content": "<audio><audio>?"}, ANSWER], "audio": "a.wav"},
         "data.picture-marks"),
        ({"messages": [{"role": "user", "content": [HEAR | {"audio": 3}, SAY]}, ANSWER]}, "data.type"),
        ({"messages": [{"role": "user", "content": "?"}, ANSWER], "audio": []}, "data.type"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(row: dict[str, Any], code: str) -> None:
    found = read(row)
    assert isinstance(found, list)
    assert code in {finding.code for finding in found}


def test_a_template_is_given_parts_of_both_kinds() -> None:
    class Tokenizer:
        chat_template = (
            "{% for m in messages %}{% for p in m['content'] %}"
            "{{ p['text'] if p['type'] == 'text' else '<' + p['type'] + '>' }}{% endfor %}{% endfor %}"
        )

    turns: list[dict[str, Any]] = [{"role": "user", "content": "a<|audio|>b<image>"}]
    (turn,) = in_parts(Tokenizer(), turns)  # type: ignore[arg-type]
    assert turn["content"] == [
        {"type": "text", "text": "a"}, {"type": "audio"}, {"type": "text", "text": "b"}, {"type": "image"},
    ]  # fmt: skip
