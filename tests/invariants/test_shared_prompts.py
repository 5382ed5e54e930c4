"""A prompt that is computed once for both answers gives the losses and gradients of two separate sequences."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch

import tiny
from luthier.data.branches import common, lay_out_branches
from luthier.engine.accumulate import loss_of
from luthier.models.backbone import Backbone
from luthier.models.load import load
from luthier.objectives import dpo
from luthier.objectives.likelihood import lay_out_answers
from luthier.objectives.preference import REFERENCE
from luthier.types import Features

CAPPED = ("gemma2",)  # its scores are capped, for which there is no fused attention


def rows(lengths: list[tuple[int, int, int]]) -> list[Features]:
    """Pairs of (prompt, chosen, rejected) tokens; the second pair of answers begins alike."""
    choose, made = random.Random(0), []
    for at, (asked, *answers) in enumerate(lengths):
        prompt = [choose.randrange(20, 300) for _ in range(asked)]
        sides = [[5] * (at % 2) + [choose.randrange(20, 300) for _ in range(size)] for size in answers]
        whole = [prompt + side for side in sides]
        taught = [[False] * asked + [True] * len(side) for side in sides]
        count = sum(map(len, sides))
        made.append({
            "row": at, "weight": 1.0 + at, "lengths": [len(ids) for ids in whole], "input_ids": [*chain(*whole)],
            "supervised": [*chain(*taught)], REFERENCE: [-1.0] * count,
        })  # fmt: skip
    return made


def open_(folder: Callable[..., str], name: str) -> Backbone:
    backbone = load(name, folder(name), "token_logits", seed=0)
    backbone.choose_layout("auto")
    return backbone


def gradients(backbone: Backbone, some: list[Features]) -> tuple[torch.Tensor, list[Any]]:
    objective = dpo.Objective(dpo.Options(), backbone, None)
    backbone.model.eval()
    terms, _ = loss_of(backbone, objective, some, "fp32")
    named = list(backbone.model.parameters())
    return terms.total, list(torch.autograd.grad(terms.total, named, allow_unused=True))


def test_layout_by_hand() -> None:
    tensors, places = lay_out_branches([[[1, 2, 3], [1, 2, 4, 5]], [[6, 7], [8, 9]]])
    assert tensors["input_ids"][0, :9].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert tensors["position_ids"][0, :9].tolist() == [0, 1, 2, 2, 3, 0, 1, 0, 1]
    assert tensors["cu_seq_lens"].tolist() == [0, 2, 3, 5, 7, 9, 64]
    assert tensors["begins"].tolist() == [-1, 0, 0, -1, -1, -1]
    assert places == [[0, 1, 2], [0, 1, 3, 4], [5, 6], [7, 8]]
    assert common([[1, 2], [1, 2, 3]]) == 1  # the shorter one keeps a token of its own
    assert common([[1], [1, 2]]) == 0


@pytest.mark.parametrize("name", [name for name in tiny.DECODERS if name not in CAPPED])
def test_losses_and_gradients_are_those_of_separate_rows(name: str, tiny_folder: Callable[..., str]) -> None:
    backbone, some = open_(tiny_folder, name), rows([(30, 3, 6), (11, 9, 2), (1, 4, 4)])
    assert backbone.unshared_because == ""
    assert lay_out_answers(backbone, some)["input_ids"].shape[1] == 128  # 62 tokens and 12, apart 64 more
    shared, found = gradients(backbone, some)
    apart, expected = gradients(replace(backbone, unshared_because="a test"), some)
    torch.testing.assert_close(shared, apart, rtol=1e-5, atol=1e-5)
    largest = max(float(g.abs().max()) for g in expected if g is not None)
    assert largest > 1e-3
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("name", CAPPED)
def test_a_model_that_can_not_says_why(name: str, tiny_folder: Callable[..., str]) -> None:
    backbone = open_(tiny_folder, name)
    assert backbone.layout == "packed"
    assert "cap" in backbone.unshared_because
    assert "begins" not in lay_out_answers(backbone, rows([(30, 3, 6)]))


def test_beginnings_are_not_shared_where_virtual_tokens_stand_before_rows(tiny_folder: Callable[..., str]) -> None:
    backbone = open_(tiny_folder, "llama")
    assert "begins" in lay_out_answers(backbone, rows([(30, 3, 6)]))
    backbone.soft_prompt = lambda: torch.zeros(2, tiny.WIDTH)
    assert "begins" not in lay_out_answers(backbone, rows([(30, 3, 6)]))
