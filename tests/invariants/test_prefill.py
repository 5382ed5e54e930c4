"""Prompts that are asked several times are read once, and what is written is what it would have been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from luthier.evaluate import generate as writing
from luthier.evaluate.generate import generate
from luthier.evaluate.prefill import first_asked
from luthier.models.backbone import Backbone
from luthier.models.joined.compose import compose
from luthier.models.load import load
from luthier.models.vision.illustrated import Illustrated
from luthier.types import Features

LONG = [*range(20, 31)]  # longer than the sliding windows of the small models
PROMPTS = [[5, 6, 7], LONG, [9, 8]]


def read(backbone: Backbone) -> list[int]:
    """How many tokens each call of the trunk is given."""
    seen: list[int] = []

    def hook(module: Any, given: Any, named: dict[str, Any]) -> None:
        ids = given[0] if given else named.get("input_ids")
        seen.append((named["inputs_embeds"][..., 0] if ids is None else ids).numel())

    backbone.trunk.register_forward_pre_hook(hook, with_kwargs=True)
    return seen


def both(backbone: Backbone, prompts: list[Any], monkeypatch: pytest.MonkeyPatch) -> tuple[list[list[int]], list[int]]:
    """What is written with and without, which must be one; and how much was read."""
    asked = [one for one in prompts for _ in range(4)]
    seen = read(backbone)
    told = generate(backbone, asked, max_new_tokens=6, temperature=1.0, seed=3, batch_size=16, whole=True)
    once = list(seen)
    monkeypatch.setattr(writing, "prefilled", lambda backbone, rows, inputs, pad: inputs)
    assert told == generate(backbone, asked, max_new_tokens=6, temperature=1.0, seed=3, batch_size=16, whole=True)
    assert len({tuple(one) for one in told}) > 4  # they are drawn
    return told, once


@pytest.mark.parametrize("name", tiny.DECODERS)
def test_the_same_answers_are_drawn(
    name: str, tiny_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load(name, tiny_folder(name), "token_logits")
    _, once = both(backbone, PROMPTS, monkeypatch)
    assert once[:2] == [3 * 10, 12]  # three prompts but their last tokens; then these of all twelve rows


def test_answers_about_pictures_too(
    tiny_folder: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    towers = tiny.save_image_model("vit", tmp_path / "vit"), tiny_folder("llama")
    compose(*towers, "projection", {}, tmp_path / "both")
    backbone = load("both", str(tmp_path / "both"), "token_logits")
    assert isinstance(backbone, Illustrated)
    prompts: list[Features] = []
    for colour in ("red", "green"):
        picture = tiny.save_picture(tmp_path / f"{colour}.png", colour)
        prompts.append(backbone.illustrated({"input_ids": [5, backbone.mark_id, 6, 7]}, [Path(picture)]))
    _, once = both(backbone, prompts, monkeypatch)
    assert once[:2] == [2 * (len(prompts[0]["input_ids"]) - 1), 8]


def test_what_stands_before_each_row_keeps_prompts_apart(
    tiny_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load("llama", tiny_folder("llama"), "token_logits")
    backbone.soft_prompt, backbone.prompt_length = lambda: torch.zeros(2, tiny.WIDTH), 2
    _, once = both(backbone, PROMPTS, monkeypatch)
    assert once[0] == 12 * 13


def test_only_neighbours_count_as_repeated() -> None:
    a, b = {"input_ids": [1, 2]}, {"input_ids": [1, 3]}
    assert first_asked([a, dict(a), b, a, a]) == ([0, 2, 3], [0, 0, 1, 2, 2])
    assert first_asked([a, a | {"pictures": ["x"]}]) == ([0, 1], [0, 1])
