"""Tiny models opened as backbones, each once a session; and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from luthier.models.backbone import Backbone
from luthier.models.load import load


@pytest.fixture
def opened(tiny_folder: Callable[..., str]) -> Callable[..., Backbone]:
    """``opened("llama", "token_logits", packing="off")``: loaded anew, in evaluation mode."""

    def one(name: str, needs: str, *, packing: str = "auto", labels: int = 3, **changes: Any) -> Backbone:
        config = {"num_labels": labels} if needs in ("sequence_logits", "tag_logits") else {}
        path = tiny_folder(name, **changes)
        backbone = load(path, path, needs, config=config)
        backbone.model.eval()
        backbone.choose_layout(packing)
        return backbone

    return one


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four of different sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    return [
        tiny.save_picture(folder / f"{i}.png", colour, size=33 + 7 * i, seed=i)
        for i, colour in enumerate(("red", "green", "blue", "red"))
    ]
