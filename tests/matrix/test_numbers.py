"""Two optimizer steps of a working cell (by default of every model and of every method): all that was chosen moves and
nothing else, `base()` gives θ₀ bit for bit, and where a method merges, the merged model answers the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reopen
import torch
import toys
from battery import recipe
from table import TASKS, WORKING, Cell, covering
from torch import Tensor

import luthier
from luthier.engine.accumulate import loss_of
from luthier.engine.fit import choose, train_mode
from luthier.engine.optimizer import build
from luthier.runs.prepared import Prepared

TRAINED = [cell for cell in WORKING if not cell.method.startswith("features")]
# Moved by no gradient in these models, by design: T5's own relative positions of blocks past the first, and the like.
LINEAR = ("lora", "ia3", "lora + norms")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return {task: toys.write(task, tmp_path_factory.mktemp("toys")) for task in TASKS}


def prepared(keys: dict[str, Any]) -> Prepared:
    findings, made = luthier.check(keys)
    assert made is not None, findings
    return made


@torch.no_grad()
def hidden(made: Prepared) -> Tensor:
    with reopen.evaluating(made.backbone.model):
        return made.backbone.hidden(made.objective.collate(made.train.rows[:4]))


def two_steps(made: Prepared, rate: float) -> None:
    choose(made.backbone.model, made.adaptation)
    optimizer = build(made.adaptation.parameters, rate, 0.0)
    torch.manual_seed(0)
    for _ in range(2):
        train_mode(made.backbone, made.adaptation)
        terms, _ = loss_of(made.backbone, made.objective, made.train.rows, "fp32")
        (terms.total / terms.count).backward()
        optimizer.step()
        optimizer.zero_grad()


def cases() -> list[Any]:
    default = covering(TRAINED, Cell.parts)
    return [pytest.param(cell, id=str(cell), marks=[] if cell in default else pytest.mark.slow) for cell in TRAINED]


@pytest.mark.parametrize("cell", cases())
def test_two_steps_move_what_was_chosen_and_nothing_else(
    cell: Cell, data: dict[str, dict[str, str]], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    keys = recipe(cell, tiny_folder(cell.model), data[cell.task], tmp_path)
    made, plain = prepared(keys), prepared(keys | {"method": "full"})
    model, parameters = made.backbone.model, made.adaptation.parameters
    chosen = {id(parameter) for parameter in parameters.values()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    two_steps(made, float(keys["learning_rate"]))
    moved = {name: not torch.equal(before[name], p) for name, p in model.named_parameters()}
    assert [name for name, p in model.named_parameters() if moved[name] and id(p) not in chosen] == []
    still = {name for name, p in model.named_parameters() if id(p) in chosen and not moved[name]}
    told = " ".join(finding.what for finding in made.findings if finding.code == "method.no-gradient")
    assert not still or f"{len(still)} of {len(parameters)} trainable tensors" in told, still

    if made.adaptation.base is not None:
        with made.adaptation.base():
            assert torch.equal(hidden(made), hidden(plain))
        assert not torch.equal(hidden(made), hidden(plain))
    if made.adaptation.merge is not None:
        rows = made.train.rows[:4]
        expected = reopen.outputs(_as_predictor(made), rows)
        made.adaptation.merge()
        difference = (reopen.outputs(_as_predictor(made), rows) - expected).abs().max()
        assert difference <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert (made.adaptation.merge is not None) == cell.method.startswith(LINEAR) * ("adapter" not in cell.method)


def _as_predictor(made: Prepared) -> Any:
    from luthier.evaluate.outputs import Reader
    from luthier.runs.predictor import Predictor

    return Predictor(made.task, made.backbone, made.objective, Reader(made.backbone, micro_tokens=4096))
