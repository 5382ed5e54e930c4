"""Soft prompts and prefixes go on where they were stopped, and begin where the seed says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Trial, chat_rows, ready

import luthier.methods.prompt as prompt_method
from luthier.engine.checkpoint import latest

CASES: dict[str, dict[str, Any]] = {
    "prompt": {"method": "prompt"},
    "prompt, lstm": {"method": "prompt", "prompt": {"encoder": "lstm"}},
    "prefix": {"method": "prefix", "prefix": {"hidden": 16}},
    "prefix, no projection": {"method": "prefix", "prefix": {"projection": False}},
}


def trial(case: str, tiny_folder: Any, folder: Path, **keys: Any) -> Trial:
    return Trial(ready(tiny_folder("llama"), "chat", chat_rows(8), folder, **CASES[case], **keys), folder)


@pytest.mark.parametrize("case", CASES)
def test_resumed_from_a_checkpoint_the_weights_are_the_same_bits(case: str, tiny_folder: Any, tmp_path: Path) -> None:
    """A checkpoint holds the raw numbers, those of the MLP or LSTM too: what is folded could not go on."""
    made = trial(case, tiny_folder, tmp_path)
    whole = made.fit(steps=4, save_every=2)
    found, _ = latest(whole.folder, "hash", step=2)
    assert found is not None
    resumed = made.fit(steps=4, save_every=2, resume=found, folder=tmp_path / "again")
    assert whole.weights.keys() == resumed.weights.keys()
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())
    assert all(not torch.equal(value, made.start[name]) for name, value in whole.weights.items())


@pytest.mark.parametrize("case", CASES)
def test_the_seed_says_where_they_begin(case: str, tiny_folder: Any, tmp_path: Path) -> None:
    first, same, other = (trial(case, tiny_folder, tmp_path, seed=seed).start for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_they_begin_in_the_embeddings_of_a_text(tiny_folder: Any, tmp_path: Path) -> None:
    """Its tokens are repeated to 5 virtual ones; where no text is given, rows of the table are drawn."""
    options = {"num_virtual_tokens": 5, "init": "text", "text": "red cat"}
    made = trial("prompt", tiny_folder, tmp_path, prompt=options)
    backbone = made.prepared.backbone
    ids = backbone.tokenizer("red cat", add_special_tokens=False)["input_ids"]
    expected = backbone.embedding.weight[[ids[at % len(ids)] for at in range(5)]]
    assert torch.equal(next(iter(made.start.values())), expected)
    drawn = trial("prompt", tiny_folder, tmp_path).start
    (start_PD,) = drawn.values()
    distances = torch.cdist(start_PD, made.prepared.backbone.embedding.weight.detach())
    assert len(start_PD) == prompt_method.Options().num_virtual_tokens == 20
    assert distances.min(dim=1).values.max() < 1e-3
