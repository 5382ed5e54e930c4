"""Trained here, opened in a fresh process: the logits are the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import reopen
import toys
from battery import recipe
from safetensors.torch import load_file
from table import Cell
from torch import Tensor

import luthier
from luthier.runs.predictor import Predictor

CELLS = {
    "lora, untied": Cell("llama", "chat", "lora"),
    "lora, tied": Cell("llama-tied", "chat", "lora"),
    "full, encoder": Cell("bert", "single", "full"),
    "freeze, decoder": Cell("gpt2", "complete", "freeze: last 1"),
    "adapter, decoder": Cell("llama", "chat", "adapter: houlsby"),
    "fusion, encoder": Cell("bert", "single", "fusion"),
    "stack, encoder-decoder": Cell("t5", "single", "adapter: stack"),
    "prefix, decoder": Cell("gpt2", "chat", "prefix"),
    "several, encoder": Cell("bert", "single", "lora + norms"),
    "several, decoder": Cell("llama", "chat", "prompt + lora"),
    "tags, encoder": Cell("bert", "tag", "lora"),
    "tags, decoder": Cell("gpt2", "tag", "prefix"),
}


@dataclass
class Trained:
    """A run, rows of ids, and what the model in memory gave for them when its training ended."""

    run: str
    rows: list[dict[str, Any]]
    logits: Tensor


@pytest.fixture(scope="module")
def trained(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    kept: list[Any] = []
    judged = Predictor.judged
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "judged", lambda self, *given: (kept.append(self), judged(self, *given))[1])
        return {name: _train(cell, tiny_folder(cell.model), tmp_path_factory, kept) for name, cell in CELLS.items()}


def _train(cell: Cell, model: str, folders: pytest.TempPathFactory, kept: list[Any]) -> Trained:
    data = toys.write(cell.task, folders.mktemp("data"))
    few = {"steps": 6, "eval_every": 6}  # enough to move what trains
    run = luthier.tune(**recipe(cell, model, data, folders.mktemp("runs")) | few)
    predictor = kept[-1]
    given = [json.loads(line) for line in Path(data["eval"]).read_text(encoding="utf-8").splitlines()]
    examples = [predictor.task.parse(row) for row in given]
    rows = [row | {"row": at} for at, example in enumerate(examples) for row in predictor.objective.encode(example)]
    return Trained(str(run.folder), rows, reopen.outputs(predictor, rows))


@pytest.fixture(scope="module")
def reopened(trained: dict[str, Trained], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    folder = tmp_path_factory.mktemp("fresh")
    jobs = {name: {"run": one.run, "rows": one.rows} for name, one in trained.items()}
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    out = folder / "out.safetensors"
    command = [sys.executable, str(Path(reopen.__file__)), "jobs.json", str(out)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return load_file(out)


@pytest.mark.parametrize("name", CELLS)
def test_a_fresh_process_gives_the_same_bits(
    name: str, trained: dict[str, Trained], reopened: dict[str, Tensor]
) -> None:
    here, there = trained[name].logits, reopened[name]
    assert here.shape == there.shape
    assert here.abs().max() > 0.1
    assert (here - there).abs().max() == 0
