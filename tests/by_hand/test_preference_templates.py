"""Answers that are compared: supervised is the answer with its terminator, byte for byte, under every template."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from chat_shapes import SHAPES, Shape
from test_template_fuzz import assistant, runs, user
from tiny_tokenizers import token_bytes

from luthier.tasks.answers import encode_answer, pair_rows
from luthier.types import Example, Refused, Source

PROMPTS = {"one": [user("hi")], "later": [user("hi"), assistant("yo"), user("so?")]}
REFUSED = {"deepseek r1": "template.prefix"}  # it prompts with a thought that it does not write in an answer
CHOSEN, REJECTED = "No, thank you.\n", "é"


def backbone(tokenizer: Any) -> Any:
    return SimpleNamespace(tokenizer=tokenizer)


def written(shape: Shape, messages: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """The template's own words; taught is the last turn."""
    pieces = [(text, turn == len(messages) - 1) for text, turn in shape.write(messages, None)]
    return runs(shape, [*pieces, (shape.eos, True)] if shape.unended else pieces)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_supervised_is_the_answer_and_its_terminator(shape: Shape, prompt: str) -> None:
    tokenizer, asked = shape.tokenizer("eos"), PROMPTS[prompt]
    example = Example(Source("a.jsonl", 1), messages=asked, chosen=[assistant(CHOSEN)], rejected=[assistant(REJECTED)])
    if shape.name in REFUSED:
        with pytest.raises(Refused) as refused:
            pair_rows(encode_answer, backbone(tokenizer), example, None)
        assert [one.code for one in refused.value.findings] == [REFUSED[shape.name]]
        assert refused.value.findings[0].where == f"a.jsonl:1:chosen[{len(asked)}]"  # counted from the first turn
        return
    (row,) = pair_rows(encode_answer, backbone(tokenizer), example, None)
    start = 0
    for said, length in zip((CHOSEN, REJECTED), row["lengths"], strict=True):
        part = slice(start, start + length)
        grouped = itertools.groupby(
            zip(row["input_ids"][part], row["supervised"][part], strict=True), key=lambda one: one[1]
        )
        found = [(b"".join(token_bytes(tokenizer, i) for i, _ in run).decode(), taught) for taught, run in grouped]
        assert found == written(shape, [*asked, assistant(said)])
        start += length
    assert all(row["supervised"][at] for at in row["turn_ends"])
    assert len(row["turn_ends"]) == 2


def test_a_row_that_is_cut_keeps_what_is_left_of_its_answers() -> None:
    """Cut to 30 tokens the long answer loses its end, the short one nothing; the longest says that it was too long."""
    shape = next(shape for shape in SHAPES if shape.name == "our chatml")
    example = Example(
        Source("a.jsonl", 1), messages=[user("hi")], chosen=[assistant("a" * 40)], rejected=[assistant("b")]
    )
    whole, cut = (pair_rows(encode_answer, backbone(shape.tokenizer("eos")), example, limit)[0] for limit in (None, 30))
    assert cut["lengths"] == [30, min(30, whole["lengths"][1])]
    assert cut["full_length"] == whole["lengths"][0] > 30
    assert cut["input_ids"][:30] == whole["input_ids"][:30]
    assert len(cut["turn_ends"]) == (1 if whole["lengths"][1] <= 30 else 0)
