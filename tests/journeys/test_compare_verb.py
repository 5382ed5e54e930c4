"""``luthier compare`` as a person types it, on tiny models: the same rows for all, failures, and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shells import COMMAND
from typed import environment

import luthier
import tiny
from forks import forks
from luthier.comparison import cells, conduct
from luthier.types import Refused

Model = Callable[..., str]


def recipe(folder: Path, model: str, **keys: Any) -> Path:
    rows = [
        {"text": f"{colour} {word} {other}", "label": colour}
        for colour in ("red", "blue")
        for word in tiny.WORDS[3:]
        for other in tiny.WORDS[9:]
    ]
    tiny.write_jsonl(folder / "rows.jsonl", rows)
    values = {"task": "classify", "model": model, "data": "rows.jsonl", "steps": 2, **keys}
    (folder / "recipe.yaml").write_text(json.dumps(values), encoding="utf-8")
    return folder / "recipe.yaml"


def compared(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "compare.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Model) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two seeds of one method, another that this model refuses; no eval file, so rows are split."""
    folder = tmp_path_factory.mktemp("compare")
    recipe(folder, tiny_folder("bert"))
    methods = "freeze,freeze(last=9)"
    words = ["compare", "recipe.yaml", "--methods", methods, "--seeds=2", "--to=c"]
    return folder, forks().run(COMMAND, *words, folder=folder, **environment())


Made = tuple[Path, "subprocess.CompletedProcess[str]"]


def test_the_command_prints_a_table_and_writes_a_page(made: Made) -> None:
    folder, ran = made
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "take freeze" in ran.stdout
    assert "freeze(last=9): refused: `last: 9` is more than the 2 blocks" in ran.stdout
    html = (folder / "c/compare.html").read_text(encoding="utf-8")
    assert "is more than the 2 blocks" in html
    assert "<script" not in html


def test_the_rows_are_the_same_whatever_the_seed(made: Made) -> None:
    """The seed of training moves the head and the order of rows, never the split."""
    told = compared(made[0] / "c")
    first, second = told["methods"][0]["cells"]
    specs = [json.loads((made[0] / "c/cells" / one["folder"] / "spec.json").read_text()) for one in (first, second)]
    assert [spec["recipe"]["seed"] for spec in specs] == [0, 1]
    assert [spec["recipe"]["data"]["split_seed"] for spec in specs] == [0, 0]
    outcomes = [json.loads((made[0] / "c/cells" / one["folder"] / "cell.json").read_text()) for one in (first, second)]
    assert outcomes[0]["rows_hash"] == outcomes[1]["rows_hash"]
    assert outcomes[0]["before"]["loss"] != outcomes[1]["before"]["loss"]  # another head
    assert outcomes[0]["n"] == told["rows"]["evaluation"] == len(first["per_row"])


def test_scores_are_those_of_the_runs(made: Made) -> None:
    """The mean over seeds is of the runs' own results, and the per-row outcomes are what it is the mean of."""
    told = compared(made[0] / "c")["methods"][0]
    runs = [luthier.load(made[0] / "c/cells" / one["run"]) for one in told["cells"]]
    values = [run.result["after"]["accuracy"]["value"] for run in runs]
    assert told["score"]["seeds"] == pytest.approx(values)
    assert told["score"]["value"] == pytest.approx(sum(values) / 2)
    assert [sum(one["per_row"]) / len(one["per_row"]) for one in told["cells"]] == pytest.approx(values)
    assert told["trainable"] == runs[0].result["trainable"]
    assert told["inference"] > 0


def test_the_same_command_runs_nothing_again(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """But what was refused: that is cheap, and may work now."""
    folder, _ = made
    ran: list[str] = []
    monkeypatch.setattr(conduct, "run_cell", lambda cell, base, stop: ran.append(cell.contender.label))
    again = luthier.compare(folder / "recipe.yaml", methods="freeze,freeze(last=9)", seeds=2, to=folder / "c")
    assert set(ran) == {"freeze(last=9)"}
    assert again.result["methods"][0]["score"]["seeds"]
    ran.clear()
    luthier.compare(folder / "recipe.yaml", ["steps=3"], methods="freeze", seeds=2, to=folder / "c")
    assert ran == ["freeze", "freeze"]  # another recipe is another comparison


def test_a_killed_comparison_goes_on(tmp_path: Path, tiny_folder: Model) -> None:
    """Killed while the second cell runs: its process ends too, the first cell is kept, and the same command goes on."""
    recipe(tmp_path, tiny_folder("bert"))
    words = ["compare", "recipe.yaml", "--methods", "features,freeze", "--seeds", "1", "--to", "c", "--json"]
    told = tmp_path / "told.txt"
    parent = forks().start(COMMAND, *words, folder=tmp_path, out=told, err=told, **environment())
    first = wait_for(tmp_path, "c/cells/features-*/cell.json")
    wait_for(tmp_path, "c/cells/freeze-*/spec.json")
    os.kill(parent, signal.SIGKILL)
    assert forks().ended(60.0) == -signal.SIGKILL
    written = first.stat().st_mtime_ns
    done = forks().run(COMMAND, *words, folder=tmp_path, **environment())
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == "finished"
    assert [method["status"] for method in told["result"]["methods"]] == ["finished", "finished"]
    assert first.stat().st_mtime_ns == written


def wait_for(folder: Path, pattern: str) -> Path:
    while not (found := list(folder.glob(pattern))):
        assert forks().ended(0.05) is None, "it ended before"
    return found[0]


def test_a_child_that_dies_stands_in_the_table_and_is_tried_again(
    tmp_path: Path, tiny_folder: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, wrong = tmp_path / "killed.sh", tmp_path / "wrong.sh"
    killed.write_text("#!/bin/sh\nkill -9 $$\n", encoding="utf-8")
    wrong.write_text("#!/bin/sh\necho Oops: it broke >&2\nexit 3\n", encoding="utf-8")
    file = recipe(tmp_path, tiny_folder("bert"))
    for script, reason in ((killed, "ended by SIGKILL"), (wrong, "exit code 3: Oops: it broke")):
        script.chmod(0o755)
        monkeypatch.setattr(cells.sys, "executable", str(script))
        found = luthier.compare(file, methods="features,freeze", seeds=1, to=tmp_path / "c")
        assert [method["status"] for method in found.result["methods"]] == ["failed", "failed"]
        assert all(reason in method["reason"] for method in found.result["methods"])
        assert found.result["recommended"] is None
        assert reason in found.page.read_text(encoding="utf-8")


def test_when_the_budget_is_used_up_nothing_begins(
    tmp_path: Path, tiny_folder: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that takes longer than all there is: the others are left out, and every method has its turn first."""
    ran: list[tuple[str, int]] = []

    def slow(cell: Any, base: Path, stop: Any) -> None:
        ran.append((cell.contender.label, cell.seed))
        time.sleep(0.3 if len(ran) == 3 else 0)

    monkeypatch.setattr(conduct, "run_cell", slow)
    file = recipe(tmp_path, tiny_folder("bert"))
    found = luthier.compare(file, methods="features,freeze", seeds=2, budget=0.25, to=tmp_path / "c")
    assert ran == [("features", 0), ("freeze", 0), ("features", 1)]
    assert found.status == "unfinished"
    assert found.result["methods"][1]["reason"] == "the budget was used up"


@pytest.mark.parametrize(
    ("methods", "keys", "code", "told"),
    [
        ("lora,frese", {}, "recipe.method", "freeze"),
        ("lora(rnk=4)", {}, "recipe.unknown-key", "rank"),
        ("lora", {"data": {"train": "rows.jsonl", "eval": 0}}, "compare.no-rows", "data.eval"),
        ("lora", {"data": "nowhere.jsonl"}, "data.missing", "nowhere"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    methods: str, keys: dict[str, Any], code: str, told: str, tmp_path: Path, tiny_folder: Model
) -> None:
    file = recipe(tmp_path, tiny_folder("bert"), **keys)
    with pytest.raises(Refused) as refused:
        luthier.compare(file, methods=methods, to=tmp_path / "c")
    found = [finding for finding in refused.value.findings if finding.code == code]
    assert found
    assert told in str(found[0])
    assert not (tmp_path / "c").exists()


def test_rows_to_choose_on_are_apart_from_the_rows_that_are_reported(tmp_path: Path, tiny_folder: Model) -> None:
    """`data.select` splits train again; checkpoints are chosen there, and the evaluation rows choose nothing."""
    file = recipe(tmp_path, tiny_folder("bert"), method="freeze", seed=3)
    overrides = ["data.select=0.2", "data.split_seed=7"]
    findings, prepared = luthier.check(file, overrides)
    assert prepared is not None, findings
    sides = (prepared.train, prepared.selection, prepared.evaluation)
    sources = [{str(example.source) for example in side.examples} for side in sides]
    assert all(sources)
    assert sum(map(len, sources)) == len(set.union(*sources))
    assert prepared.choosing is prepared.selection.rows
    _, other = luthier.check(file, [*overrides, "seed=4"])
    assert other is not None
    assert [{str(e.source) for e in side.examples} for side in (other.train, other.selection)] == sources[:2]
    run = luthier.tune(file, overrides, out=str(tmp_path))
    values = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    watched = [record for record in values if record["kind"] == "eval"]
    assert run.result["after"]["accuracy"]["n"] == len(prepared.evaluation.rows)
    on_selection = [round(record["accuracy"] * len(prepared.selection.rows), 6) for record in watched]
    assert all(value == int(value) for value in on_selection)
    assert "to choose on" in run.report.read_text(encoding="utf-8")


def test_runs_that_begin_alike_measure_the_beginning_once(tmp_path: Path, tiny_folder: Model) -> None:
    """LoRA's B is zero and the head is the seed's: both begin as the same model. Another seed has another head."""
    file = recipe(tmp_path, tiny_folder("bert"), out=str(tmp_path / "runs"))
    runs = [luthier.tune(file, [f"method={name}", f"seed={seed}", "data.split_seed=0", f"name={name}{seed}"])
            for name, seed in (("lora", 0), ("full", 0), ("full", 1))]  # fmt: skip
    assert len(list((tmp_path / "runs/.cache").glob("before-*.json"))) == 2
    before = [run.result["before"] for run in runs]
    assert before[0] == before[1] != before[2]


def test_a_decoder_forgets_by_the_loss_on_other_text(tmp_path: Path, tiny_folder: Model) -> None:
    """Trained hard on one line, it gives other words less chance than before. The command is stopped by no one."""
    tiny.write_jsonl(tmp_path / "rows.jsonl", [{"text": f"red cat and the old dog {i}"} for i in range(60)])
    tiny.write_jsonl(tmp_path / "other.jsonl", [{"text": "small bird new tree green house river"}] * 3)
    found = luthier.compare(
        {"task": "complete", "model": tiny_folder("llama"), "data": str(tmp_path / "rows.jsonl"), "steps": 12},
        methods="full(learning_rate=0.01)", seeds=1, to=tmp_path / "c", retention=str(tmp_path / "other.jsonl"),
    )  # fmt: skip
    (full,) = found.result["methods"]
    assert full["status"] == "finished", full["reason"]
    assert full["retention"]["after"] > full["retention"]["before"] > 0
    assert full["rate_from"] == "given"
    assert found.result["higher_is_better"] is False


def test_the_child_finds_the_package_without_an_installation() -> None:
    source = Path(luthier.__file__).parents[1]
    assert str(source) in cells._environment()["PYTHONPATH"].split(os.pathsep)
