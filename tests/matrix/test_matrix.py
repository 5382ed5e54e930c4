"""Every model × task × method of the table runs, learns, saves and opens again the same, or is refused with a mend.

By default a selection runs in which every pair occurs; the rest of the product is slow.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import modalities
import pytest
import toys
from battery import (
    assert_learned,
    assert_only_chosen_moved,
    assert_opens_the_same,
    assert_plain_gives_the_same,
    recipe,
)
from grid import GRID, grid
from table import METHODS, REASONS, REFUSED, TASKS, WORKING, Cell, covering

import luthier
import tiny
from luthier.types import Refused

pytestmark = pytest.mark.usefixtures("few_resamples")


def cases(cells: list[Cell]) -> list[Any]:
    default = covering(cells)
    return [pytest.param(cell, id=str(cell), marks=[] if cell in default else pytest.mark.slow) for cell in cells]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return {task: toys.write(task, tmp_path_factory.mktemp("toys")) for task in TASKS}


@pytest.mark.parametrize("cell", cases(WORKING))
def test_a_working_cell_learns_and_opens_again_the_same(
    cell: Cell, data: dict[str, dict[str, str]], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    model, files = tiny_folder(cell.model), data[cell.task]
    run = luthier.tune(**recipe(cell, model, files, tmp_path))
    assert run.finished
    assert_learned(run, cell, files["train"])
    assert_only_chosen_moved(run, cell, model)
    again = assert_opens_the_same(run, cell, files["eval"])
    assert_plain_gives_the_same(again, cell, model, files["eval"])


@pytest.mark.parametrize("cell", cases(REFUSED))
def test_a_refused_cell_says_why_and_how_to_mend_it(
    cell: Cell, data: dict[str, dict[str, str]], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Refused before a run folder is made, with one finding: the reason is told, and told once."""
    with pytest.raises(Refused) as refused:
        luthier.tune(**recipe(cell, tiny_folder(cell.model), data[cell.task], tmp_path))
    assert cell.refusal is not None
    code, _, part = cell.refusal.partition(": ")
    (finding,) = (finding for finding in refused.value.findings if finding.severity == "error")
    assert finding.code == code
    assert part in finding.what
    assert finding.where
    assert finding.mend
    assert not list(tmp_path.rglob("run.json"))


def test_a_missing_chat_template_is_told_once_and_not_for_every_row(
    data: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    model = tiny.save("llama", tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    findings, _ = luthier.check(task="chat", model=model, data=data["chat"], method="lora")
    assert [finding.code for finding in findings if finding.severity == "error"].count("template.none") == 1


def test_the_selection_holds_every_pair() -> None:
    for cells in (WORKING, REFUSED):
        selected = covering(cells)
        assert set().union(*(cell.pairs() for cell in selected)) == set().union(*(cell.pairs() for cell in cells))
        assert len(selected) < len(cells) / 3


def test_every_method_and_reason_is_used() -> None:
    assert {cell.method for cell in WORKING} == set(METHODS)
    assert {cell.refusal for cell in REFUSED} == set(REASONS)


def test_every_reason_of_pictures_sounds_and_actions_is_used() -> None:
    told = {table.refusal(*cell) for table in modalities.TABLES for cell in table.cells}
    assert told == {None, *modalities.REASONS}


def test_the_grid_of_the_documentation_is_the_table_that_these_tests_run() -> None:
    assert GRID.read_text(encoding="utf-8") == grid(), "run `python tests/matrix/grid.py`"
