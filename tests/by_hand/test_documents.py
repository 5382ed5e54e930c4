"""A document and its summary as tokens: counted by hand on tokenizers with a token a byte, or a token a word."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import byte_level
from transformers import AutoTokenizer

import tiny
from luthier.data.text.document import one_text, source_and_target

EOS = 1  # of the tokenizer of `tiny`


def text(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids)


def written(tokenizer: Any, row: dict[str, Any]) -> str:
    """The supervised tokens as text."""
    return text(tokenizer, [token for token, taught in zip(row["input_ids"], row["supervised"], strict=True) if taught])


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (99, "abcdef| xy</s>"),
        (11, "abcdef| xy</s>"),  # six letters, a bar, a space, two letters and the end: eleven tokens
        (9, "abcd| xy</s>"),
        (5, "| xy</s>"),
    ],
)
def test_a_decoder_loses_the_end_of_the_document_and_nothing_of_the_target(limit: int, kept: str) -> None:
    tokenizer = byte_level(0)
    row = one_text(tokenizer, "abcdef", "|", "xy", limit)
    assert text(tokenizer, row["input_ids"]) == kept
    assert len(row["input_ids"]) == min(limit, 11)
    assert row["supervised"] == [False] * (len(row["input_ids"]) - 4) + [True] * 4
    assert row["turn_ends"] == [len(row["input_ids"]) - 1]
    assert row["full_length"] == 11


def test_a_target_that_does_not_fit_is_not_learned_in_part() -> None:
    """Separator and target alone are five tokens: with four nothing is supervised, and the row is told as too long."""
    row = one_text(byte_level(0), "abcdef", "|", "xy", 4)
    assert not any(row["supervised"])
    assert row["full_length"] == 11


def test_the_begin_of_text_is_no_part_of_the_document() -> None:
    tokenizer = byte_level(0, bos=True)
    row = one_text(tokenizer, "abcdef", "|", "xy", 7)
    assert text(tokenizer, row["input_ids"]) == "<s>a| xy</s>"


@pytest.mark.parametrize("limit", [1000, 40])
@pytest.mark.parametrize("name", ["bytes", "trim", "stories"])
def test_a_prompt_is_what_stands_before_a_target_in_training(
    name: str, limit: int, shared: Callable[[str], Path]
) -> None:
    """Token for token, with merged tokens too, and cut in the same place where both are over the limit."""
    made = {"bytes": byte_level, "trim": partial(byte_level, trim=True)}
    tokenizer = made[name]() if name in made else AutoTokenizer.from_pretrained(shared("models/stories260k"))
    document, separator, target = "hello world, hello there: what is a cat?" * 2, "\n\nTL;DR:", "a small animal"
    row = one_text(tokenizer, document, separator, target, limit)
    assert written(tokenizer, row).strip() == f"{target}</s>"
    before = row["supervised"].index(True)
    prompt = one_text(tokenizer, document, separator, None, before)
    assert prompt["input_ids"] == row["input_ids"][:before]
    assert prompt["supervised"] == [False] * before


@pytest.mark.parametrize(("limit", "source"), [(9, [0, 1, 2, 3]), (3, [0, 1])])
def test_source_and_target_each_end_once(limit: int, source: list[int]) -> None:
    """Four words and the end; over the limit of three, two words and the end. The target is "the red" and the end."""
    tokenizer = tiny.tokenizer(encoder=False, closes=True)
    words = [tokenizer.convert_tokens_to_ids(token) for token in ("small", "Ġcat", "Ġand", "Ġdog")]
    row = source_and_target(tokenizer, "small cat and dog", "the red", limit)
    assert row["input_ids"] == [*(words[at] for at in source), EOS]
    the, red = (tokenizer.convert_tokens_to_ids(token) for token in ("the", "Ġred"))
    assert row["target_ids"] == [the, red, EOS]
    assert (row["turn_ends"], row["full_length"]) == ([2], 5)


def test_a_target_over_the_limit_is_left_out_whole_and_an_end_is_added_where_there_is_none() -> None:
    tokenizer = tiny.tokenizer(encoder=False, closes=True)
    row = source_and_target(tokenizer, "small cat", "the red and the blue", 5)
    assert (row["target_ids"], row["turn_ends"], row["full_length"]) == ([], [], 6)
    bare = tiny.tokenizer(encoder=False)
    assert source_and_target(bare, "small cat", "the red", 5)["target_ids"][-1] == EOS
    assert source_and_target(bare, "small cat", None, 5)["target_ids"] == []
