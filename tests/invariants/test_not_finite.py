"""Promise 3: a NaN never reaches the weights, and the event names the rows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Trial, Wrapped, assert_close, classify_rows, ready, records, train_steps

import luthier
import tiny
from luthier.cli.main import main
from luthier.engine import checkpoint
from luthier.engine.batching import Order
from luthier.objectives import classification
from luthier.types import LossTerms, Refused

ROWS, BATCH, STEPS = 12, 4, 6
Poison = Callable[[LossTerms], None]


def nan_loss(terms: LossTerms) -> None:
    terms.total = terms.total * math.nan


def infinite_loss(terms: LossTerms) -> None:
    terms.total = terms.total + math.inf


def nan_gradient(terms: LossTerms) -> None:
    terms.total.register_hook(lambda gradient: gradient * math.nan)


@pytest.fixture
def made(tiny_folder: Any, tmp_path: Path) -> Trial:
    return Trial(ready(tiny_folder("bert"), "classify", classify_rows(ROWS), tmp_path, method="full"), tmp_path)


def poisoned(made: Trial, poison: Poison, steps: set[int], *, first: int = 0) -> Wrapped:
    """The objective, poisoned in the micro-batch of one row at these steps (from 0); ``first`` is the fit's first."""
    objective, order = made.prepared.objective, Order(ROWS, BATCH, 0, "data")
    victims = {step: order.step(step)[1] for step in steps}
    seen = {"rows": 0}

    def loss(backbone: Any, batch: Any) -> LossTerms:
        step = first + seen["rows"] // BATCH
        seen["rows"] += len(batch.rows)
        terms = objective.loss(backbone, batch)
        if victims.get(step) in batch.rows:
            poison(terms)
        return terms

    return Wrapped(objective, loss=loss)


class Watch(list[dict[str, Any]]):
    """Records of a fit; at each, no weight may be anything but a finite number, and its weights are noted."""

    def __init__(self, made: Trial):
        super().__init__()
        self.parameters = made.prepared.adaptation.parameters
        self.weights: list[dict[str, torch.Tensor]] = []

    def append(self, record: dict[str, Any]) -> None:
        super().append(record)
        assert all(p.isfinite().all() for p in self.parameters.values())
        if record["kind"] == "train":
            self.weights.append({name: p.detach().clone() for name, p in self.parameters.items()})


@pytest.mark.parametrize("poison", [nan_loss, infinite_loss, nan_gradient])
def test_the_step_is_skipped_and_its_rows_are_named(made: Trial, poison: Poison) -> None:
    watch = Watch(made)
    trained = made.fit(
        objective=poisoned(made, poison, {2}),
        steps=STEPS,
        batch_size=BATCH,
        micro_tokens=1,
        records=watch,
        save_every=1,
    )
    step = Order(ROWS, BATCH, 0, "data").step(2)
    [event] = [record for record in watch if record["kind"] == "event"]
    assert (event["step"], event["event"]) == (3, "nan")
    # One row makes a micro-batch here; a gradient is only known for the whole step.
    assert event["rows"] == (sorted(step) if poison is nan_gradient else [step[1]])
    assert str(event["rows"]) in event["text"]
    assert_close(watch.weights[2], watch.weights[1], 0.0)
    assert any((watch.weights[3][name] != watch.weights[2][name]).any() for name in watch.weights[2])
    assert trained.progress.skipped == 0
    found, _ = checkpoint.latest(trained.folder, "hash")
    assert found is not None
    assert all(
        value.isfinite().all() for group in ("parameters", "optimizer") for value in found.tensors(group).values()
    )


def test_a_skipped_step_leaves_no_trace_in_later_steps(made: Trial) -> None:
    """With steps 0 and 1 skipped, step 2 is taken from the first weights, with an optimizer that has seen nothing."""
    skipping = made.fit(objective=poisoned(made, nan_loss, {0, 1}), steps=3, batch_size=BATCH, save_every=1)
    found, _ = checkpoint.latest(skipping.folder, "hash")
    assert found is not None
    assert {float(value) for name, value in found.tensors("optimizer").items() if name.endswith("|step")} == {1.0}


def test_three_in_a_row_stop_the_run(made: Trial) -> None:
    watch = Watch(made)
    with pytest.raises(Refused) as refusal:
        made.fit(objective=poisoned(made, nan_loss, {1, 2, 3}), steps=STEPS, batch_size=BATCH, micro_tokens=1,
                 records=watch)  # fmt: skip
    [finding] = refusal.value.findings
    assert finding.code == "train.not-finite"
    assert finding.where == "step 4"
    assert [record["step"] for record in watch if record["kind"] == "event"] == [2, 3, 4]


def test_two_in_a_row_and_two_more_later_do_not(made: Trial) -> None:
    trained = made.fit(objective=poisoned(made, nan_loss, {0, 1, 3, 4}), steps=STEPS, batch_size=BATCH)
    assert [record["step"] for record in trained.records if record["kind"] == "event"] == [1, 2, 4, 5]
    assert trained.progress.step == STEPS


def test_the_count_goes_on_after_a_resume(made: Trial) -> None:
    """Two skipped steps, a stop, and a third: three in a row all the same."""
    first = made.fit(objective=poisoned(made, nan_loss, {0, 1}), steps=2, batch_size=BATCH)
    found, _ = checkpoint.latest(first.folder, "hash")
    with pytest.raises(Refused):
        made.fit(objective=poisoned(made, nan_loss, {2}, first=2), steps=3, batch_size=BATCH, resume=found)


def test_the_command_exits_with_2_and_names_file_and_line(
    tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole batch is poisoned; the trial of ``check`` takes fewer rows and sees nothing of it."""
    honest = classification.Objective.loss

    def loss(self: Any, backbone: Any, batch: Any) -> LossTerms:
        terms = honest(self, backbone, batch)
        if len(batch.rows) == 6:
            nan_loss(terms)
        return terms

    monkeypatch.setattr(classification.Objective, "loss", loss)
    monkeypatch.chdir(tmp_path)
    tiny.write_jsonl(tmp_path / "rows.jsonl", classify_rows(6))
    with pytest.raises(SystemExit) as ended:
        main(["tune", "--task", "classify", "--model", tiny_folder("bert"), "--data", "rows.jsonl", "name=run",
              "steps=9", "batch_size=6"])  # fmt: skip
    assert ended.value.code == 2
    said = capsys.readouterr().out
    assert "train.not-finite" in said
    run = tmp_path / "runs" / "run"
    assert train_steps(run) == [1, 2]
    told = [record for record in records(run) if record["kind"] == "event"]
    assert [record["event"] for record in told] == ["nan"] * 3
    assert {source for record in told for source in record["sources"]} == {f"rows.jsonl:{n}" for n in range(1, 7)}
    assert all("NaN" not in line for line in (run / "metrics.jsonl").read_text().splitlines())
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    assert not luthier.load(run).finished
