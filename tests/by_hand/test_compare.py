"""A comparison's numbers, its rule and its page, from results written by hand."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.comparison.asked import seconds_of
from luthier.comparison.contenders import read_contenders
from luthier.comparison.forgetting import Retention
from luthier.comparison.search import Search
from luthier.data.split import split
from luthier.evaluate.paired import RESAMPLES, difference, replicates, summary
from luthier.reports.compare import page, to_json, write_comparison
from luthier.reports.compare_console import Progress, table
from luthier.reports.recommend import recommend
from luthier.reports.scatter import Dot, names, stops
from luthier.types import Example, Refused, Source
from tiny import write_jsonl

PLANTED = "<script>alert(1)</script>"


def mean_of(values: list[float]) -> Any:
    return lambda indices: sum(values[i] for i in indices) / len(indices)


# Statistics -----------------------------------------------------------------------------------------------------------


def test_replicates_are_the_same_for_every_run_and_true_to_the_statistic() -> None:
    """The shortcut for means, and the long way for another statistic: the largest of the rows drawn.

    Of rows 0, 0, 0, 1 the largest is 1 unless the last is never drawn: in (3/4)^4 = 0.316 of the resamples.
    """
    values = [0.0, 0.0, 0.0, 1.0]
    means = replicates(mean_of(values), values)
    assert means == replicates(mean_of(values), values)
    assert set(means) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    largest = replicates(lambda indices: max(values[i] for i in indices), values)
    assert largest.count(0.0) / RESAMPLES == pytest.approx(0.316, abs=0.05)
    assert [one > 0 for one in largest] == [one > 0 for one in means]  # the same rows were drawn


def test_a_difference_that_is_the_same_in_every_row_has_no_width() -> None:
    """Rows 0.1 to 0.9 against the same less 0.2: every resample differs by 0.2, though each interval is wide."""
    ours = [0.1, 0.3, 0.5, 0.7, 0.9]
    theirs = [one - 0.2 for one in ours]
    first, second = (replicates(mean_of(side), side) for side in (ours, theirs))
    wide = summary([0.5], [first], 5)
    assert wide["high"] - wide["low"] > 0.2
    gap = difference([0.3], [second], [0.5], [first])
    assert [gap[key] for key in ("value", "low", "high")] == pytest.approx([-0.2, -0.2, -0.2])
    assert gap["p"] == pytest.approx(2 / RESAMPLES)
    assert difference([0.5], [first], [0.5], [first]) == pytest.approx({"value": 0, "low": 0, "high": 0, "p": 1})


def test_a_lucky_seed_is_not_a_better_method() -> None:
    """Seeds at 0.4 and 0.8 against seeds at 0.6: rows alone (none differ within a seed) would leave no doubt about any
    gap; drawing seeds gives means of 0.4, 0.6 or 0.8, so the interval of the gap is -0.2 to 0.2."""
    flat = [[value] * RESAMPLES for value in (0.4, 0.8)]
    gap = difference([0.4, 0.8], flat, [0.6, 0.6], [[0.6] * RESAMPLES] * 2)
    assert (gap["low"], gap["high"]) == pytest.approx((-0.2, 0.2))
    told = summary([0.4, 0.8], flat, 10)
    assert (told["value"], told["min"], told["max"]) == pytest.approx((0.6, 0.4, 0.8))


# The rule -------------------------------------------------------------------------------------------------------------


def method(name: str, value: float, gap: tuple[float, float] | None, trainable: int, seconds: float) -> dict[str, Any]:
    score = {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 1000}
    entry: dict[str, Any] = {
        "name": name, "status": "finished", "reason": "", "trainable": trainable, "parameters": 100_000,
        "seconds": seconds, "peak_memory_mb": 900, "weights_mb": 1.5, "inference": 1.0, "learning_rate": 1e-3,
        "rate_from": "default", "search": [],
        "score": score | {"min": value - 0.01, "max": value + 0.01, "seeds": [value - 0.01, value + 0.01]},
        "cells": [cell(seed, value) for seed in (0, 1)],
    }  # fmt: skip
    if gap:
        entry["difference"] = {"value": sum(gap) / 2, "low": gap[0], "high": gap[1], "p": 0.2}
    return entry


def cell(seed: int, value: float) -> dict[str, Any]:
    return {
        "seed": seed, "status": "finished", "score": value, "steps": 20, "best_step": 10, "wall_seconds": 30.0,
        "run": f"run-{seed}", "folder": f"run-{seed}", "before": {"accuracy": {"value": 0.5}}, "per_row": [1.0, 0.0],
        "replicates": [0.5, 0.25],
    }  # fmt: skip


def failure(name: str, status: str, reason: str) -> dict[str, Any]:
    cells = [{"seed": seed, "status": status, "reason": reason} for seed in (0, 1)]
    return {"name": name, "status": status, "reason": reason, "cells": cells, "search": [], "rate_from": "default"}


def result(*methods: dict[str, Any], **changes: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "format": 1, "created": "2026-11-25T02:00:00", "luthier": "0.1.0", "task": "classify", "model": "a-model",
        "seeds": [0, 1], "split_seed": 0, "rows": {"train": 900, "selection": 100, "evaluation": 1000},
        "evaluation": ["test.jsonl"], "same": {"epochs": 1.0, "batch_size": 32}, "search": None, "retention": None,
        "findings": [], "metric": "accuracy", "higher_is_better": True, "methods": list(methods),
        "machine": {"device": "cpu"}, "versions": {"torch": "2"},
    }  # fmt: skip
    told |= changes
    return told | recommend(told)


FULL = method("full", 0.82, None, 100_000, 100.0)
LORA = method("lora", 0.815, (-0.015, 0.005), 1_200, 60.0)
BITFIT = method("bitfit", 0.77, (-0.07, -0.03), 300, 50.0)
DEAD = failure("qlora", "refused", "bitsandbytes is not installed [method.needs-extra]")


def test_the_smallest_of_those_as_good_as_the_best_is_taken() -> None:
    """bitfit is smaller but worse (its interval leaves zero out); lora holds zero: 1,200 of 100,000 is 1.2 %."""
    told = result(FULL, LORA, BITFIT, DEAD)
    assert (told["best"], told["recommended"], told["tied"]) == ("full", "lora", ["full", "lora"])
    first = told["reasons"][0]
    assert "0.005 worse than the best, full" in first
    assert "1.2 % of its trained numbers and 0.60 of its time" in first
    assert any("qlora" in reason for reason in told["reasons"])


def test_the_best_is_taken_where_it_stands_alone() -> None:
    told = result(FULL, BITFIT)
    assert (told["recommended"], told["tied"]) == ("full", ["full"])


def test_of_equal_sizes_the_faster_is_taken() -> None:
    twin = method("dora", 0.815, (-0.015, 0.005), 1_200, 90.0)
    assert result(FULL, twin, LORA)["recommended"] == "lora"


def test_an_exact_tie_is_called_one() -> None:
    twin = method("lora", 0.82, (-0.01, 0.01), 1_200, 60.0)
    assert "level with the best" in result(FULL, twin)["reasons"][0]


def test_where_less_is_better_the_sentence_turns_round() -> None:
    """A loss 0.005 above the best is worse."""
    told = result(FULL, method("lora", 0.825, (-0.005, 0.015), 1_200, 60.0), metric="loss", higher_is_better=False)
    assert "0.005 worse than the best" in told["reasons"][0]


def test_one_method_and_none() -> None:
    assert "only method" in result(FULL)["reasons"][0]
    told = result(DEAD)
    assert (told["recommended"], told["reasons"]) == (None, ["No method reached its end."])


def test_what_costs_more_elsewhere_is_said() -> None:
    slow = LORA | {"inference": 1.4, "seconds": 180.0}
    told = result(FULL, slow)
    assert "1.8 of the training time of full, 1.4 of the inference time of full" in told["reasons"][1]
    assert any(reason.startswith("Where time counts more than size: full") for reason in told["reasons"])


# The page and the table -----------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "input"):
            self.open.append(tag)
        assert not [value for key, value in attrs if key in ("src", "href") and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(html: str) -> tuple[str, list[str]]:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return " ".join(reader.words), reader.tags


def test_the_page_is_whole_and_holds_every_method() -> None:
    told = result(FULL, LORA, BITFIT, DEAD)
    words, tags = read(page(told, "a-comparison"))
    assert "script" not in tags
    for text in ("Take lora.", "bitsandbytes is not installed", "can't be told apart", "worse", "The rule:", "run-1"):
        assert text in words, text
    assert "100 rows split off train" in words
    assert words.index("full") >= 0
    assert tags.count("svg") == 4  # scores, two costs, differences


def test_a_page_of_one_method_of_none_and_with_hostile_names() -> None:
    words, _ = read(page(result(FULL), "one"))
    assert "only method" in words
    assert "Differences from" not in words
    words, _ = read(page(result(DEAD, metric=None), "none"))
    assert "No method reached its end." in words
    hostile = failure(PLANTED, "failed", PLANTED)
    html = page(result(FULL, hostile, findings=[]), PLANTED)
    assert PLANTED not in html
    assert "script" not in read(html)[1]


def test_forgetting_and_the_search_have_tables() -> None:
    kept = LORA | {
        "retention": {"before": 2.0, "after": 2.5, "min": 2.4, "max": 2.6},
        "search": [
            {"learning_rate": 1e-3, "value": 0.8, "status": "finished", "chosen": False},
            {"learning_rate": 3e-3, "value": None, "status": "failed", "chosen": False},
        ],
    }
    asked = {"file": "other.txt", "name": "loss", "probe": False, "rows": 30}
    words, _ = read(page(result(FULL, kept, retention=asked, search={"trials": 2, "share": 0.3}), "x"))
    assert "2.5000" in words
    assert "+0.5000" in words
    assert "30 % of the steps" in words
    assert "failed" in words


def test_the_table_has_the_best_first_and_failures_last() -> None:
    lines = table(result(LORA, DEAD, FULL, BITFIT))
    assert [line.split()[0] for line in lines[1:]] == ["full", "*lora", "bitfit", "qlora:"]
    assert "0.815" in lines[2]
    assert "0.795 to 0.835" in lines[2]
    assert "1.2 k" in lines[2]


def test_the_terminal_gets_the_table_and_the_reasons(tmp_path: Path) -> None:
    stream = io.StringIO()
    Progress(stream=stream).finish(result(FULL, LORA), tmp_path)
    assert "take lora" in stream.getvalue()
    Progress(quiet=True, stream=(silent := io.StringIO())).finish(result(FULL), tmp_path)
    assert silent.getvalue() == ""


def test_compare_json_keeps_a_list_of_numbers_on_one_line(tmp_path: Path) -> None:
    told = result(FULL, LORA) | {"odd": [[1, None, -2.5e-7], [], ["[ 1,\n 2 ]"], [True]]}
    text = to_json(told)
    assert json.loads(text) == told
    assert "[1,null,-2.5e-07]" in text
    write_comparison(tmp_path, told)
    assert json.loads((tmp_path / "compare.json").read_text(encoding="utf-8")) == told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.html", "compare.json"]


def test_stops_of_a_cost_axis_and_names_that_do_not_meet() -> None:
    """1 and 3 times powers of ten around 5 to 200."""
    assert stops([5, 200, 0]) == [3, 10, 30, 100, 300]
    assert stops([10]) == [10, 30]
    dots = [Dot(f"method{i}", 10, 0.5, (0.4, 0.6), "after") for i in range(4)]
    tops = sorted(top for _, top, _ in names(dots, [(100.0, 80.0)] * 4))
    assert all(below - above >= 12 for above, below in pairwise(tops))


# What is asked for ----------------------------------------------------------------------------------------------------


def test_methods_are_read_with_their_options() -> None:
    found = read_contenders("features, lora(rank=4, learning_rate=1e-2),freeze(train=[norms, biases]),ia3+bitfit")
    assert [one.label for one in found] == [
        "features", "lora(rank=4,learning_rate=1e-2)", "freeze(train=[norms,biases])", "ia3+bitfit",
    ]  # fmt: skip
    values = {"task": "classify", "method": "full", "lora": {"rank": 16, "alpha": 8}, "epochs": 2}
    assert found[0].recipe(values) == {"task": "classify", "method": "features", "epochs": 2}
    lora = found[1].recipe(values)
    assert lora["method"] == {"lora": {"rank": 4, "alpha": 8}}
    assert float(lora["learning_rate"]) == 0.01
    assert found[2].recipe(values)["method"] == {"freeze": {"train": ["norms", "biases"]}}
    assert found[3].recipe(values)["method"] == ["ia3", "bitfit"]
    assert len({one.slug for one in found}) == 4


def test_methods_of_python_and_the_recipe_s_own_options() -> None:
    (lora, both) = read_contenders([{"lora": {"rank": 2}}, ["lora", "bitfit"]])
    assert lora.label == "lora(rank=2)"
    assert both.label == "lora+bitfit"
    (plain,) = read_contenders("lora")
    assert plain.recipe({"method": {"lora": {"rank": 8}}})["method"] == {"lora": {"rank": 8}}


@pytest.mark.parametrize("text", ["", "lora,lora", "lora(rank)", "lo ra(", "lora)(", "lora(rank=[)"])
def test_methods_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        read_contenders(text)
    assert {finding.code for finding in refused.value.findings} == {"compare.methods"}


def test_durations() -> None:
    assert [seconds_of(text) for text in (None, 5, "90s", "30m", "1h30m", "1h 5s")] == [None, 5, 90, 1800, 5400, 3605]
    for text in ("", "soon", "30", "-5m"):
        with pytest.raises(Refused):
            seconds_of(text)


def test_another_purpose_splits_what_is_left_again() -> None:
    """With one purpose, what is left of a split at 0.1 has no row below 0.1 any more."""
    rows = [Example(Source("a", i), text=f"sentence number {i}") for i in range(2000)]
    train, held_out = split(rows, 0.1, 0)
    rest, selection = split(train, 0.1, 0, "select")
    assert 140 <= len(selection) <= 230  # 180 on average, standard deviation 13
    assert {e.source.line for e in selection}.isdisjoint({e.source.line for e in held_out})
    assert len(rest) + len(selection) + len(held_out) == 2000


def test_rows_to_measure_forgetting_on_must_fit(tmp_path: Path) -> None:
    text = write_jsonl(tmp_path / "text.jsonl", [{"text": f"a text {i}"} for i in range(3)])
    few = write_jsonl(tmp_path / "few.jsonl", [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(6)])
    enough = write_jsonl(tmp_path / "enough.jsonl", [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(10)])
    for file, task in ((text, "classify"), (few, "classify"), (str(tmp_path / "none.jsonl"), "chat")):
        with pytest.raises(Refused):
            Retention(file, task)
    assert Retention(enough, "classify").probe
    assert not Retention(text, "chat").probe


# The search -----------------------------------------------------------------------------------------------------------


def trials(values: dict[float | None, list[float | None]], rate: float | None = 1e-3, **told: Any) -> Search:
    """A search whose trials reach ``values`` of their rates on the selection rows."""

    def make(asked: float | None) -> Any:
        found = {"status": "finished", "learning_rate": asked or rate, "chosen_on": values.get(asked, [0.1])}
        spec = {"recipe": {"learning_rate": asked}}
        return SimpleNamespace(
            done=True, status="finished", folder=Path("x"), spec=spec,
            told={**found, "final": "best", "higher_is_better": True, "wall_seconds": 1.0, **told},
        )  # fmt: skip

    search = Search(len(values), make)
    while (trial := search.next()) is not None:
        search.tell(trial)
    return search


def test_the_search_tries_the_default_and_a_half_decade_to_each_side() -> None:
    search = trials({None: [0.5, 0.7], 3e-3: [0.8, 0.6], 3.33e-4: [None]})
    assert search.rates == pytest.approx([1e-3, 3e-3, 3.33e-4])
    assert search.rate == pytest.approx(3e-3)
    assert [trial["value"] for trial in search.report()] == [0.7, 0.8, None]
    assert [trial["chosen"] for trial in search.report()] == [False, True, False]


def test_the_default_stands_where_nothing_beats_it_and_the_last_counts_where_it_is_kept() -> None:
    assert trials({None: [0.8], 3e-3: [0.8]}).rate is None
    assert trials({None: [0.5], 3e-3: [0.9, 0.4]}, final="last").rate is None
    assert trials({None: [0.5], 3e-3: [0.4]}, higher_is_better=False).rate == pytest.approx(3e-3)


def test_a_method_without_a_rate_is_not_searched() -> None:
    search = trials({None: [], 3e-3: []}, rate=None)
    assert (search.complete, len(search.trials), search.rate) == (True, 1, None)


def test_later_trials_are_optuna_s_and_the_same_when_the_search_goes_on() -> None:
    pytest.importorskip("optuna")
    values: dict[float | None, list[float | None]] = {None: [0.5], 3e-3: [0.8], 3.33e-4: [0.4], -1.0: [0], -2.0: [0]}
    first, second = trials(values), trials(values)
    assert first.rates == second.rates
    assert len(first.rates) == 5
    assert all(1e-4 <= rate <= 1e-2 for rate in first.rates)
