"""A prompt that is computed once for both answers gives the losses and gradients of two separate sequences."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from luthier.data.branches import common, lay_out_branches
from luthier.engine.accumulate import loss_of
from luthier.engine.batching import micro_batches
from luthier.models.backbone import Backbone
from luthier.models.joined.compose import compose
from luthier.models.load import load
from luthier.models.vision.illustrated import Illustrated
from luthier.objectives import bradley_terry, dpo, grpo
from luthier.objectives.likelihood import lay_out_answers
from luthier.objectives.online import ADVANTAGE
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


def group(asked: int, answers: list[int], row: int, seed: int) -> list[Features]:
    """The rows of one prompt's answers, as a rollout makes them."""
    choose = random.Random(seed)
    prompt = [choose.randrange(20, 300) for _ in range(asked)]
    made = []
    for at, size in enumerate(answers):
        made.append({
            "row": row, "weight": 1.0, "prompt": asked, "begins": asked, "lengths": [asked + size],
            "input_ids": prompt + [choose.randrange(20, 300) for _ in range(size)],
            "supervised": [False] * asked + [True] * size, ADVANTAGE: 1.0 - at, REFERENCE: [-6.0] * size,
        })  # fmt: skip
    return made


@pytest.mark.parametrize("name", [name for name in tiny.DECODERS if name not in CAPPED])
def test_answers_of_a_group_give_what_they_give_apart(name: str, tiny_folder: Callable[..., str]) -> None:
    backbone = open_(tiny_folder, name)
    some = [*group(30, [3, 6, 2, 1], 0, 1), *group(9, [4, 4], 1, 2)]
    objective = grpo.Objective(grpo.Options(max_new_tokens=6), backbone, None)
    assert objective.collate(some)["input_ids"].shape[1] == 64  # 59 tokens; apart 158
    found = []
    for one in (backbone, replace(backbone, unshared_because="a test")):
        objective = grpo.Objective(grpo.Options(max_new_tokens=6), one, None)
        terms, _ = loss_of(one, objective, some, "fp32")
        grads = torch.autograd.grad(terms.total, list(one.model.parameters()), allow_unused=True)
        found.append((terms, torch.cat([g.flatten() for g in grads if g is not None])))
    (shared, gradient), (apart, expected) = found
    torch.testing.assert_close(shared.total, apart.total, rtol=1e-5, atol=1e-5)
    assert {*shared.report} == {"kl", "ratio", "clip_fraction"}
    assert [*chain(*shared.report.values())] == pytest.approx([*chain(*apart.report.values())], rel=1e-5)
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_group_of_answers_about_a_picture_sees_it_once(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    towers = tiny.save_image_model("vit", tmp_path / "vit"), tiny_folder("llama")
    compose(*towers, "projection", {}, tmp_path / "both")
    backbone = load("both", str(tmp_path / "both"), "token_logits")
    assert isinstance(backbone, Illustrated)
    backbone.choose_layout("auto")
    some = []
    for at, colour in enumerate(("red", "green")):
        picture = tiny.save_picture(tmp_path / f"{colour}.png", colour)
        for row in group(9, [3, 5], at, at):
            ids = [*row["input_ids"][:4], backbone.mark_id, *row["input_ids"][4:]]
            told = row | {"input_ids": ids, "supervised": [False, *row["supervised"]], "turn_ends": []}
            shown = backbone.illustrated(told, [Path(picture)])
            length = len(shown["input_ids"])
            asked = length - sum(row["supervised"])
            some.append(shown | {"lengths": [length], "prompt": asked, "begins": asked})
    with backbone.looking():
        found = []
        for one in (backbone, replace(backbone, unshared_because="a test")):
            objective = grpo.Objective(grpo.Options(max_new_tokens=6), one, None)
            terms, batch = loss_of(one, objective, some, "fp32")
            grads = torch.autograd.grad(terms.total, list(one.model.parameters()), allow_unused=True)
            found.append(
                (len(batch["pixel_values"]), terms.total, torch.cat([g.flatten() for g in grads if g is not None]))
            )
    assert [one for one, *_ in found] == [2, 4]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0][2], found[1][2], rtol=1e-5, atol=1e-5 * float(found[1][2].abs().max()))


def test_rows_that_begin_alike_stand_together_and_count_their_beginning_once() -> None:
    """Budget 20; rows of 12, 11 and 10 tokens that begin with the same 8 come to 12 + 3 + 2 = 17, one of 9 is alone."""
    a, b = ("a", 8), ("b", 4)
    assert micro_batches([11, 9, 12, 10], 20, padded=False, begun=[a, None, a, a]) == [[2, 0, 3], [1]]
    assert micro_batches([11, 9, 12, 10], 20, padded=False) == [[2], [0], [3, 1]]
    # The group is cut where the budget ends, and the next one counts the beginning anew.
    assert micro_batches([12, 12, 12], 17, padded=False, begun=[a, a, a]) == [[0, 1], [2]]
    assert micro_batches([9, 6, 9, 6], 30, padded=False, begun=[b, a, b, a]) == [[0, 2, 1, 3]]
    # Two processes: 12 + 4 + 4 + 4 = 24 tokens, so 12 each at most.
    assert micro_batches([12, 12, 12, 12], 99, padded=False, begun=[a] * 4, at_least=2) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("name", [name for name in tiny.DECODERS if name not in CAPPED])
def test_scores_of_both_answers_are_those_of_separate_rows(name: str, tiny_folder: Callable[..., str]) -> None:
    backbone = load(name, tiny_folder(name), "sequence_logits", config={"num_labels": 1}, seed=0)
    backbone.choose_layout("auto")
    some = [row | {"margin": 0.5} for row in rows([(60, 3, 6), (11, 9, 2), (1, 4, 4)])]
    found = []
    for one in (backbone, replace(backbone, unshared_because="a test")):
        objective = bradley_terry.Objective(bradley_terry.Options(margin=1.0), one, None)
        one.model.eval()
        terms, batch = loss_of(one, objective, some, "fp32")
        grads = torch.autograd.grad(terms.total, list(one.model.parameters()), allow_unused=True)
        flat = torch.cat([g.flatten() for g in grads if g is not None])
        found.append((batch["input_ids"].shape[1], objective.scores(one, batch), terms.total, flat))
    (shared, scores, total, gradient), (apart, *expected) = found
    assert (shared, apart) == (128, 192)
    for got, wanted in zip((scores, total, gradient), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.detach().abs().max()))
