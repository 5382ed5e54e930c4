"""Several data sets mixed by sampling: quotas and draws counted by hand, and the run that tells them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luthier
import tiny
from luthier.data.mixing import Mixture, by_temperature, quotas
from luthier.engine.batching import Order


def test_quotas_by_hand() -> None:
    """Of 10 rows: 1/3 and 2/3 are 3.33 and 6.67, so 3 and 7; shares are scaled; a small share still gives one row."""
    assert quotas([1, 2], 10) == [3, 7]
    assert quotas([0.5, 0.5], 11) == [6, 5]
    assert quotas([1e-9, 1], 10) == [1, 9]
    assert quotas([1, 1, 1], 4) == [2, 1, 1]


def test_temperature_by_hand() -> None:
    """90 and 10 rows: T = 1 leaves 0.9 and 0.1; T = 2 takes roots, 9.487 : 3.162 = 0.75 : 0.25; a high T, halves."""
    assert by_temperature([90, 10], 1) == pytest.approx([0.9, 0.1])
    assert by_temperature([90, 10], 2) == pytest.approx([0.75, 0.25])
    assert by_temperature([90, 10], 1e9) == pytest.approx([0.5, 0.5])


def mixed(seed: int = 0, batch: int = 3) -> Order:
    """Six rows and two rows, half and half: an epoch of 8 has 4 draws of each."""
    return Order(8, batch, seed, "data", Mixture([np.arange(6), np.arange(6, 8)], [4, 4]))


def test_an_epoch_has_the_quota_of_each_set_and_goes_on_where_it_stopped() -> None:
    """Over three epochs 12 draws of 6 rows and of 2 rows: each of the first twice, each of the others six times; in the
    first epoch no row of the large set comes twice, and each of the small set does."""
    order = mixed()
    epochs = [[row for step in range(3 * e, 3 * e + 3) for row in order.step(step)] for e in range(3)]
    for epoch in epochs:
        assert len(epoch) == 8
        assert sum(row < 6 for row in epoch) == 4
    first = Counter(epochs[0])
    assert sorted(first.values()) == [1, 1, 1, 1, 2, 2]
    assert Counter(row for epoch in epochs for row in epoch) == {**dict.fromkeys(range(6), 2), 6: 6, 7: 6}
    assert epochs[0] != epochs[1]
    assert order.counts(9).tolist() == [2] * 6 + [6, 6]
    assert order.counts(2).sum() == 6


def test_draws_depend_on_seed_epoch_and_data_alone() -> None:
    """Asked in any order, by another object, with another batch size: the same rows; another seed, others."""
    order, again = mixed(), mixed()
    backwards = [again.step(step) for step in reversed(range(12))][::-1]
    assert [order.step(step) for step in range(12)] == backwards
    flat = [row for step in range(6) for row in mixed(batch=4).step(step)]
    assert [row for step in range(9) for row in order.step(step)] == [*flat, *mixed(batch=8).step(2)][:24]
    assert [mixed(1).step(step) for step in range(12)] != backwards


def conversation(text: str) -> dict[str, Any]:
    return {"prompt": f"say {text}", "completion": text}


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    pairs = [conversation(f"{a} {b}") for a in tiny.WORDS[:4] for b in tiny.WORDS[4:10]]
    tiny.write_jsonl(tmp_path / "big.jsonl", pairs)
    tiny.write_jsonl(tmp_path / "small.jsonl", [conversation(word) for word in tiny.WORDS[:4]])
    return [{"path": "big.jsonl", "share": 1}, {"path": "small.jsonl", "share": 1}]


def test_a_run_tells_what_it_draws_of_each(sets: list[dict[str, Any]], tiny_folder: Callable[..., str]) -> None:
    """24 and 4 rows, half and half: 14 draws of each an epoch, 28 in two. The small set's rows come 7 times."""
    keys: dict[str, Any] = {"task": "chat", "model": tiny_folder("llama"), "batch_size": 7, "epochs": 2}
    run = luthier.tune(data={"train": sets, "eval": 0.0}, **keys)
    told = run.result["data"]["train"]["sets"]
    assert [{key: one[key] for key in ("path", "rows", "drawn", "used", "repeated", "left")} for one in told] == [
        {"path": "big.jsonl", "rows": 24, "drawn": 28, "used": 24, "repeated": 4, "left": 0},
        {"path": "small.jsonl", "rows": 4, "drawn": 28, "used": 4, "repeated": 24, "left": 0},
    ]
    assert "small.jsonl" in run.report.read_text(encoding="utf-8")
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["rows"] for record in records if record["kind"] == "train"] == [7] * 8
    warm = luthier.tune(
        data={"train": ["big.jsonl", "small.jsonl"], "eval": 0.0, "temperature": 1e9}, name="warm", **keys
    )
    assert [one["drawn"] for one in warm.result["data"]["train"]["sets"]] == [28, 28]


@pytest.mark.parametrize(
    ("data", "method", "says"),
    [
        ({"train": ["big.jsonl", "small.jsonl"], "temperature": 2, "shares": True}, "lora", "two ways"),
        ({"train": ["big.jsonl"], "temperature": 2}, "lora", "one data set"),
        ({"train": [{"path": "big.jsonl", "share": 1}, "small.jsonl"]}, "lora", "1 of 2 data sets"),
        ({"train": [{"path": "big.jsonl", "share": 1}, {"path": "small.jsonl", "share": 0}]}, "lora", "above 0"),
    ],
)
def test_mixtures_that_mean_nothing(
    data: dict[str, Any], method: str, says: str, sets: list[dict[str, Any]], tiny_folder: Callable[..., str]
) -> None:
    if data.pop("shares", False):
        data["train"] = sets
    findings, _ = luthier.check(task="chat", model=tiny_folder("llama"), data={"eval": 0.0, **data}, method=method)
    assert [says in finding.what for finding in findings if finding.code == "data.mixing"] == [True]


def test_entries_are_checked(sets: list[dict[str, Any]], tiny_folder: Callable[..., str]) -> None:
    train = [{"path": "big.jsonl", "wieght": 2}, {"weight": 2}]
    findings, _ = luthier.check(task="chat", model=tiny_folder("llama"), data={"train": train, "eval": 0.0})
    assert [(f.code, f.mend) for f in findings if f.severity == "error"] == [
        ("data.entry", "did you mean weight?"), ("data.missing", "write {path: rows.jsonl}"),
    ]  # fmt: skip
