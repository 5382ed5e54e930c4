"""Tiny models opened as backbones, each once a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

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
