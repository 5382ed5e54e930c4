"""Tags of words: entities, schemes, the token that stands for a word, the loss, and rows that are wrong."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from luthier.data.collate import lay_out
from luthier.data.formats.choose import to_example
from luthier.data.text.tags import broken, entities, scheme_of
from luthier.data.text.words import tokens_of
from luthier.evaluate import tagging
from luthier.objectives.tags import Objective, Options
from luthier.types import Source


def test_entities_of_each_scheme() -> None:
    """Two of PER side by side, then LOC."""
    expected = [(0, 2, "P"), (2, 3, "P"), (4, 5, "L")]
    assert entities(["B-P", "I-P", "B-P", "O", "B-L"]) == expected
    assert entities(["I-P", "I-P", "B-P", "O", "I-L"]) == expected
    assert entities(["B-P", "E-P", "S-P", "O", "S-L"]) == entities(["B-P", "L-P", "U-P", "O", "U-L"]) == expected


def test_schemes_are_told_by_the_tags() -> None:
    assert scheme_of([["I-P", "B-P", "O"]]) == "iob1"
    assert scheme_of([["O", "B-P", "I-P"], ["I-P", "O"]]) == "bio"
    assert scheme_of([["S-P", "O"]]) == "bioes"
    assert scheme_of([["NOUN", "O"]]) == "plain"
    assert [at for at, _ in broken(["O", "I-P", "B-L", "I-P"], "bio")] == [1, 3]


def test_the_token_of_a_word() -> None:
    """One takes in the space before it; a word has none; one shares that of the word before."""
    words = [(0, 3), (4, 7), (8, 9), (10, 11), (11, 12)]
    offsets = [(0, 0), (0, 2), (2, 3), (3, 7), (10, 12), (0, 0)]
    assert tokens_of(offsets, words) == [1, 3, None, 4, None]
    assert tokens_of(offsets, words, last=True) == [2, 3, None, 4, None]


def test_f1_counts_words_and_type() -> None:
    """Found 2, of 3, one right: precision 1/2, recall 1/3, F1 2/5."""
    found = tagging.plain([["B-P", "I-P", "O", "B-L"]], [["B-P", "I-P", "B-P", "B-P"]], "entities")
    assert found == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "token_accuracy": 1 / 2})


def test_loss_of_the_words_that_are_read() -> None:
    """p(1) = 3/4 at position 0 (weight 2), p(0) = 4/5 at position 2: L = -2 ln(3/4) - ln(4/5), count 3."""
    logits = torch.tensor([[0, math.log(3)], [9, 9], [math.log(4), 0]])
    backbone: Any = SimpleNamespace(
        layout="padded", tokenizer=SimpleNamespace(pad_token_id=0), hidden=lambda batch: logits,
        position_logits=lambda hidden: hidden, lay_out=lambda rows: lay_out(rows, "padded"),
    )  # fmt: skip
    rows = [
        {"row": 0, "input_ids": [5, 6], "words": [0, 1], "at": [0, None], "targets": [1, 0], "weight": 2.0},
        {"row": 1, "input_ids": [7], "words": [0], "at": [0], "targets": [0], "weight": 1.0},
    ]
    objective = Objective(Options(), backbone, lambda example: [])
    batch = objective.collate(rows)
    assert batch["read_at"].tolist() == [0, 2]
    terms = objective.loss(backbone, batch)
    assert float(terms.total) == pytest.approx(-2 * math.log(3 / 4) - math.log(4 / 5))
    assert terms.count == 3


@pytest.mark.parametrize(
    ("row", "fmt", "codes"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "tokens-tags", ["data.tag-count"]),
        ({"text": "Ada sang", "spans": [[0, 2, "P"], [5, 99, "P"]]}, "text-spans",
         ["data.span-cut", "data.span-outside"]),
        ({"text": "Ada sang", "spans": [[0, 3, "P"], [0, 8, "P"]]}, "text-spans", ["data.span-overlap"]),
        ({"text": "Ada sang", "spans": [{"start": 4, "end": 8, "label": "P", "text": "Ada"}]}, "text-spans",
         ["data.span-text"]),
    ],
)  # fmt: skip
def test_bad_rows_say_what_is_wrong_all_at_once(row: dict[str, Any], fmt: str, codes: list[str]) -> None:
    found = to_example(Source("rows.jsonl", 7), row, fmt)
    assert isinstance(found, list)
    assert [finding.code for finding in found] == codes
    assert all(finding.where.startswith("rows.jsonl:7:") for finding in found)
