"""Promise 8: evaluation leaves no trace. And which weights become the final ones: the best, or the last."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers import Trial, assert_close, chat_rows, classify_rows, final_sha256, no_dropout, ready, records

import luthier
import tiny
from luthier.engine import checkpoint


@pytest.mark.parametrize(
    ("model", "task", "method"), [("bert", "classify", "full"), ("llama", "chat", "lora"), ("bert", "classify", "lora")]
)
def test_with_or_without_it_the_final_weights_are_the_same(
    model: str, task: str, method: str, tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluated after each step, before and after, with samples; or never. Dropout is on in both."""
    monkeypatch.chdir(tmp_path)
    rows = (classify_rows if task == "classify" else chat_rows)(14)
    train = tiny.write_jsonl(tmp_path / "train.jsonl", rows[:10])
    evaluation = tiny.write_jsonl(tmp_path / "eval.jsonl", rows[10:])
    changes = {"attention_dropout": 0.1} if model == "llama" else {}
    options = {"lora": {"dropout": 0.2}} if method == "lora" else {}

    def tuned(eval: Any, **keys: Any) -> Path:
        return luthier.tune(
            task=task, model=tiny_folder(model, **changes), data={"train": train, "eval": eval}, method=method,
            steps=6, batch_size=4, micro_tokens=24, learning_rate=1e-3, final="last", **options, **keys,
        ).folder  # fmt: skip

    never, always = tuned(0.0), tuned(evaluation, eval_every=1)
    assert len([record for record in records(always) if record["kind"] == "eval"]) == 6
    assert not [record for record in records(never) if record["kind"] == "eval"]
    assert final_sha256(never) == final_sha256(always)


def test_dropout_is_on_while_it_trains_and_another_in_each_step(tiny_folder: Any, tmp_path: Path) -> None:
    """All rows make each batch and the rate is too small to matter: only dropout can make the losses differ."""
    steady: dict[str, Any] = {"steps": 3, "learning_rate": 1e-12}

    def losses(folder: Path, **changes: Any) -> list[float]:
        model = tiny_folder("bert", **changes)
        return Trial(ready(model, "classify", classify_rows(8), folder, method="full"), folder).fit(**steady).losses

    with_dropout = losses(tmp_path / "with")
    assert min(abs(a - b) for a, b in pairwise([*with_dropout, with_dropout[0]])) > 1e-4
    without = losses(tmp_path / "without", **no_dropout("bert"))
    assert without == pytest.approx([without[0]] * 3, rel=1e-6)


def judge(values: list[float]) -> Callable[[], dict[str, float]]:
    """An evaluation that gives these values, one after the other."""
    rest = iter(values)
    return lambda: {"score": next(rest)}


@pytest.fixture
def made(tiny_folder: Any, tmp_path: Path) -> Trial:
    prepared = ready(tiny_folder("bert"), "classify", classify_rows(8), tmp_path, method="lora")
    return Trial(prepared, tmp_path)


ASKED: dict[str, Any] = {"steps": 8, "batch_size": 4, "eval_every": 1, "save_every": 100, "metric": "score"}


def test_the_best_weights_become_the_final_ones(made: Trial) -> None:
    """Best at step 3: the weights of a run of three steps (the rate is constant)."""
    values = [0.1, 0.3, 0.5, 0.4, 0.5, 0.2, 0.1, 0.0]
    best = made.fit(evaluate=judge(values), higher_is_better=True, final="best", keep=1, **ASKED)
    assert (best.progress.best_step, best.progress.best, best.progress.step) == (3, 0.5, 8)
    three = made.fit(**{**ASKED, "steps": 3})
    assert_close(best.weights, three.weights, 0.0)


def test_the_last_weights_when_asked(made: Trial) -> None:
    values = [0.1, 0.3, 0.5, 0.4, 0.5, 0.2, 0.1, 0.0]
    last = made.fit(evaluate=judge(values), higher_is_better=True, final="last", **ASKED)
    assert_close(last.weights, made.fit(**ASKED).weights, 0.0)


def test_lower_can_be_better_and_nan_never_is(made: Trial) -> None:
    values = [math.nan, 0.3, 0.2, math.nan, -math.inf, 0.4, 0.3, 0.3]
    best = made.fit(evaluate=judge(values), higher_is_better=False, final="best", **ASKED)
    assert (best.progress.best_step, best.progress.best) == (3, 0.2)


def test_patience_stops_early_and_keeps_the_best(made: Trial) -> None:
    values = [0.1, 0.5, 0.4, 0.4, 0.3, 0.9]
    stopped = made.fit(evaluate=judge(values), higher_is_better=True, final="best", patience=3, **ASKED)
    assert (stopped.progress.step, stopped.progress.best_step) == (5, 2)
    assert "score has not improved for 3 evaluations" in stopped.progress.stopped
    two = made.fit(**{**ASKED, "steps": 2})
    assert_close(stopped.weights, two.weights, 0.0)
    found, _ = checkpoint.latest(stopped.folder, "hash")
    assert found is not None
    again = made.fit(evaluate=judge([]), resume=found, folder=stopped.folder, higher_is_better=True, final="best",
                     patience=3, **ASKED)  # fmt: skip
    assert again.progress.step == 5
    assert_close(again.weights, two.weights, 0.0)


def test_tune_keeps_the_best_and_says_which_step_it_was(
    tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The final model is that of ``best_step``, and the result's metrics are its own."""
    monkeypatch.chdir(tmp_path)
    rows = classify_rows(40)
    data = {
        "train": tiny.write_jsonl(tmp_path / "train.jsonl", rows[:16]),
        "eval": tiny.write_jsonl(tmp_path / "eval.jsonl", rows[16:]),
    }
    run = luthier.tune(
        task="classify", model=tiny_folder("bert"), data=data, method="full", steps=12, batch_size=8, eval_every=1,
        learning_rate=3e-3, patience=4, metric="loss",
    )  # fmt: skip
    curve = {record["step"]: record["loss"] for record in records(run.folder) if record["kind"] == "eval"}
    best = min(curve, key=lambda step: curve[step])
    assert run.result["best_step"] == best
    assert run.result["steps"] == min(12, best + 4)
    assert run.result["after"]["loss"]["value"] == pytest.approx(curve[best], rel=1e-5)
    assert best < run.result["steps"]
    assert json.loads((run.folder / "run.json").read_text())["status"] == "finished"
