"""Distillation by every kind of method: it learns, moves only what was chosen, and opens again without its teacher."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import toys
from battery import assert_learned, assert_only_chosen_moved, assert_opens_the_same, of_each_step, recipe
from table import Cell

import luthier
from luthier.types import Refused

METHODS = (
    "full", "freeze: last 1", "lora", "lora: dora", "lora: adalora", "ia3", "adapter: parallel", "prompt",
    "prefix", "lora + adapter",
)  # fmt: skip
MODELS = {"bert": "single", "llama": "chat", "t5": "summarize"}
CELLS = [Cell("llama", "chat", method) for method in METHODS]
CELLS += [
    Cell(model, task, method) for model, task in MODELS.items() for method in ("full", "lora") if model != "llama"
]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_student_learns_by_any_method(cell: Cell, tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """The teacher is another model, tuned on the same rows; it is gone when the student is opened."""
    files, model = toys.write(cell.task, tmp_path), tiny_folder(cell.model)
    tuned = recipe(Cell(cell.model, cell.task, "full"), tiny_folder(cell.model, seed=1), files, tmp_path)
    teacher = luthier.tune(**tuned, name="teacher").folder
    keys = recipe(cell, model, files, tmp_path) | {"distill": {"teacher": str(teacher), "temperature": 1.0}}
    run = luthier.tune(**keys, name="student")
    assert_learned(run, cell, files["train"])
    apart = of_each_step(run, "divergence")
    assert apart[-1] < apart[0]
    assert_only_chosen_moved(run, cell, model)
    shutil.rmtree(teacher)
    assert_opens_the_same(run, cell, files["eval"])


def test_a_fit_without_gradients_is_refused(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    cell = Cell("bert", "single", "features: logistic")
    keys = recipe(cell, tiny_folder("bert"), toys.write("single", tmp_path), tmp_path)
    with pytest.raises(Refused) as refused:
        luthier.tune(**keys, distill={"teacher": tiny_folder("bert", seed=1)})
    assert [finding.code for finding in refused.value.findings if finding.severity == "error"] == ["distill.method"]
