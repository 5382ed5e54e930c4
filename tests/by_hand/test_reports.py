"""What a run shows: verdicts, charts, the page, the card, the terminal and the metrics, against hand-made runs."""

from __future__ import annotations

import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from luthier.reports.card import class_names, model_card
from luthier.reports.console import Console, before_after_line, trainable_line
from luthier.reports.data import account
from luthier.reports.figures import decimals, duration, share
from luthier.reports.folder import read_run, recipe_rows
from luthier.reports.html import given, write_report
from luthier.reports.markup import element
from luthier.reports.svg import (
    Interval,
    Series,
    bar,
    interval_bars,
    line_chart,
    nice_ticks,
    path,
    smoothed,
    thinned,
)
from luthier.reports.trackers import Metrics
from luthier.reports.verdict import verdict
from luthier.types import Finding, Refused

PLANTED = "<script>alert(1)</script>"

RUN: dict[str, Any] = {
    "format": 1,
    "name": "classify-tiny-lora",
    "status": "finished",
    "task": "classify",
    "method": "lora",
    "opens_with": "peft",
    "objective": "classification",
    "model": {"name": "starter:minilm", "path": "/models/minilm", "parameters": 22713986},
    "luthier": "0.1.0",
    "versions": {"torch": "2.13.0"},
    "machine": {"device": "cpu", "cores": 2, "precision": "fp32", "threads": 2},
    "created": "2026-11-23T05:00:00",
    "recipe_hash": "0123456789abcdef",
}
RESULT: dict[str, Any] = {
    "metric": "accuracy",
    "higher_is_better": True,
    "before": {"accuracy": {"value": 0.51, "low": 0.45, "high": 0.57, "n": 240}},
    "after": {"accuracy": {"value": 0.87, "low": 0.82, "high": 0.91, "n": 240}, "loss": {"value": 0.31}},
    "trainable": 147456,
    "parameters": 22713986,
    "trained": [{"role": "attention", "tensors": 24, "numbers": 147456}],
    "steps": 100,
    "epochs": 3,
    "seconds": 61.2,
    "peak_memory_mb": 812,
    "best_step": 80,
    "data": {
        "train": {
            "files": ["train.jsonl"],
            "format": "text-label",
            "read": 520,
            "used": 518,
            "skipped": {"duplicate": 2},
            "tokens": 9000,
            "longest": 61,
        },
        "eval": {"files": ["test.jsonl"], "format": "text-label", "read": 240, "used": 240, "skipped": {}},
        "labels": {"negative": 258, PLANTED: 260},
    },
    "findings": [
        {
            "code": "data.duplicates",
            "severity": "warning",
            "where": "train.jsonl:7",
            "what": PLANTED,
            "mend": "remove one",
            "why": "it counts twice",
        }
    ],
    "final": "final",
    "size_mb": 1.2,
}
RECIPE = f"""task: "classify"  # recipe.yaml:1
model:
  name: "starter:minilm"  # recipe.yaml:2
lora:
  rank: 8  # command line
  targets: ["{PLANTED}"]  # method
seed: 0  # default
"""
SAMPLES = [
    {"source": "a:1", "input": "calm", "target": "x", "before": "x", "after": "x", "changed": False, "right": True},
    {
        "source": "a:2",
        "input": PLANTED,
        "target": "x",
        "before": "y",
        "after": PLANTED,
        "changed": True,
        "right": False,
    },
]
RECORDS = [
    {"step": 10, "kind": "train", "loss": 0.6, "seconds": 1.0},
    {"step": 20, "kind": "train", "loss": 0.4, "seconds": 2.0},
    {"step": 20, "kind": "eval", "loss": 0.5, "accuracy": 0.8},
    {"step": 20, "kind": "event", "event": "oom", "text": PLANTED},
]


def lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def make_run(folder: Path, run: dict[str, Any] | None = None, result: dict[str, Any] | None = None) -> Path:
    """A run folder; ``run`` and ``result`` change single keys."""
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(RUN | (run or {})))
    (folder / "result.json").write_text(json.dumps(RESULT | (result or {})))
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "metrics.jsonl").write_text(lines(RECORDS))
    (folder / "samples.jsonl").write_text(lines(SAMPLES))
    return folder


def said(folder: Path, **changes: Any) -> str:
    run = {key: changes.pop(key) for key in ("status", "method") if key in changes}
    return verdict(read_run(make_run(folder, run, changes)))


def metric(value: float, low: float, high: float, name: str = "accuracy") -> dict[str, Any]:
    return {name: {"value": value, "low": low, "high": high, "n": 240}}


class TestVerdict:
    def test_a_clear_rise(self, tmp_path: Path) -> None:
        """147456 / 22713986 = 0.6492 %, and the narrower half-width, (0.91 - 0.82) / 2 = 0.045, bears two decimals."""
        assert said(tmp_path) == (
            "LoRA on 0.65 % of the numbers raised accuracy from 0.51 to 0.87 on 240 rows held out "
            "(95 % interval 0.82 to 0.91)."
        )

    def test_intervals_that_overlap_may_be_chance(self, tmp_path: Path) -> None:
        assert said(tmp_path, before=metric(0.80, 0.75, 0.85), after=metric(0.83, 0.78, 0.88)) == (
            "LoRA on 0.65 % of the numbers raised accuracy from 0.80 to 0.83 on 240 rows held out "
            "(95 % interval 0.78 to 0.88, before 0.75 to 0.85: they overlap, so the difference may be chance)."
        )

    def test_a_lower_loss_is_no_fault(self, tmp_path: Path) -> None:
        loss = {"metric": "loss", "higher_is_better": False, "before": metric(3.21, 3.1, 3.3, "loss")}
        assert said(tmp_path, method="full", **loss, after=metric(2.14, 2.0, 2.3, "loss")) == (
            "Full fine-tuning lowered loss from 3.21 to 2.14 on 240 rows held out (95 % interval 2.00 to 2.30)."
        )

    def test_worse_is_called_worse(self, tmp_path: Path) -> None:
        text = said(tmp_path, before=metric(0.9, 0.88, 0.92), after=metric(0.7, 0.66, 0.74))
        assert text.startswith("LoRA on 0.65 % of the numbers lowered accuracy from 0.90 to 0.70")
        assert text.endswith("which is worse.")

    def test_no_change_and_a_missing_before(self, tmp_path: Path) -> None:
        same = metric(0.87, 0.82, 0.91)
        assert "left accuracy at 0.87 on 240 rows held out" in said(tmp_path, before=same, after=same)
        assert said(tmp_path, before=None, method="features") == (
            "A classifier on frozen features reached accuracy 0.87 on 240 rows held out "
            "(95 % interval 0.82 to 0.91; not measured before training)."
        )

    def test_tokens_are_not_called_rows(self, tmp_path: Path) -> None:
        """n may count tokens (9000); the rows that were used are 240."""
        after = {"accuracy": {"value": 0.87, "low": 0.82, "high": 0.91, "n": 9000}}
        assert "on 240 rows held out" in said(tmp_path, after=after)

    def test_a_run_that_did_not_reach_its_end_says_so(self, tmp_path: Path) -> None:
        stopped = said(tmp_path, status="stopped", steps=60)
        assert stopped.endswith("0.91). The run was stopped after 60 steps, before its recipe ended.")
        early = said(tmp_path, steps=60, stopped="accuracy has not improved for 3 evaluations")
        assert early.endswith("It stopped early after 60 steps: accuracy has not improved for 3 evaluations.")
        assert said(tmp_path, status="running").endswith("The run is not finished.")

    def test_without_a_result_it_says_how_far_it_came(self, tmp_path: Path) -> None:
        (make_run(tmp_path, {"status": "running"}) / "result.json").unlink()
        text = "The run is not finished: step 20 is the last on record, with a training loss of 0.4."
        assert verdict(read_run(tmp_path)) == text

    def test_a_metric_that_is_not_a_number_gives_no_verdict(self, tmp_path: Path) -> None:
        text = said(tmp_path, after={"accuracy": {"value": float("nan"), "low": None, "high": None, "n": 3}})
        assert text.startswith("The run ended without an evaluation")
        write_report(tmp_path)


class TestFigures:
    def test_decimals_tell_different_values_apart(self) -> None:
        """0.871 and 0.874 are the same to two decimals; without intervals three are shown."""
        wide = {"low": 0.8, "high": 0.9}
        assert decimals({"value": 0.871, **wide}, {"value": 0.874, **wide}) == 3
        assert decimals({"value": 0.83, "low": 0.825, "high": 0.835}) == 3
        assert decimals({"value": 1.0}) == 3

    def test_shares_and_durations(self) -> None:
        assert [share(part, 100_000) for part in (3, 649, 1234, 66_700, 100_000, 0)] == [
            "0.0030 %", "0.65 %", "1.2 %", "67 %", "100 %", "0 %",
        ]  # fmt: skip
        assert [duration(s) for s in (2.34, 61.2, 3725)] == ["2.3 s", "1:01", "1:02:05"]

    def test_rows_add_up_or_the_gap_is_told(self) -> None:
        split = {"read": 520, "used": 466, "split_off": 52, "skipped": {"duplicate": 2}}
        assert account(split) == "520 read = 466 used + 52 held out + 2 duplicate"
        assert account(split | {"used": 465}).endswith("; 1 not accounted for")


class TestCharts:
    def test_two_points_by_hand(self) -> None:
        """The plot spans x 46..364 and y 190..16; ticks over 0..1 are 0, 0.2 ... 1, so (0, 0) and (100, 1) are corners.

        A mark at step 50 stands half-way: 46 + 318 / 2 = 205.
        """
        chart = line_chart("Loss", [Series("train", [(0, 0.0), (100, 1.0)])], [(50, "a")])
        assert 'd="M46 190L364 16"' in chart
        assert 'x1="205" x2="205"' in chart
        assert re.findall(r'text-anchor="end">([^<]*)<', chart) == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        assert "<title>Loss</title>" in chart

    def test_a_missing_value_lifts_the_pen(self) -> None:
        assert path([(0, 1), (2, 3), None, (4, 5)]) == "M0 1L2 3M4 5"
        assert line_chart("empty", [Series("train", [(1, None)])]) == ""
        assert "circle" in line_chart("one", [Series("eval", [(5, 0.5)], dots=True)])

    def test_nice_ticks(self) -> None:
        assert nice_ticks(0.07, 0.93) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
        assert nice_ticks(3, 98) == [0, 20, 40, 60, 80, 100]
        assert nice_ticks(1, 3, whole=True) == [1, 2, 3]
        assert nice_ticks(2, 2)[0] <= 2 <= nice_ticks(2, 2)[-1]

    def test_interval_bars_by_hand(self) -> None:
        """Ticks over 0..1 put the axis at x 64..362, 298 wide: 0.5 stands at 213, 0.25 at 138.5, 0.75 at 287.5."""
        rows = [Interval("accuracy", "after", 0.5, (0.25, 0.75), "after"), Interval("accuracy", "", 1.0, (0, 1), "x")]
        chart = interval_bars("t", rows)
        assert '<circle cx="213"' in chart
        assert '<line x1="138.5" x2="287.5"' in chart

    def test_bars_are_their_share(self) -> None:
        assert 'width="25%"' in bar("a quarter", 0.25)
        assert 'width="100%" height="8" class="fill' in bar("never more", 1.7)

    def test_thinning_keeps_spikes_and_gaps(self) -> None:
        points: list[tuple[float, float | None]] = [(x, 1.0) for x in range(4000)]
        points[1234], points[2000] = (1234, 99.0), (2000, None)
        kept = thinned(points)
        assert len(kept) < 420
        assert (1234, 99.0) in kept
        assert any(y is None for _, y in kept)

    def test_the_moving_mean_has_no_start_bias(self) -> None:
        """Two points, 1 and 4, keep 0.8: (0.8*0.2*1 + 0.2*4) / (0.8*0.2 + 0.2) = 0.96 / 0.36 = 8/3."""
        assert smoothed([(1, 1.0), (2, None), (3, 4.0)]) == [(1, 1.0), (3, pytest.approx(8 / 3))]


class Reader(HTMLParser):
    """Tags that are open, links that leave the page, and table heads."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "action", "data")]
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class TestReport:
    def test_the_page_is_whole_and_leaves_nothing_to_the_network(self, tmp_path: Path) -> None:
        page = write_report(make_run(tmp_path)).read_text()
        reader = Reader()
        reader.feed(page)
        assert reader.open == []
        assert reader.links == []
        assert not re.search(r"https?:|url\(|@import", page)
        assert "script" not in reader.tags
        assert reader.tags.count("table") == reader.tags.count("thead") == reader.tags.count("caption") > 5
        assert reader.tags.count("h2") == 8

    def test_what_rows_recipe_and_labels_plant_is_text(self, tmp_path: Path) -> None:
        page = write_report(make_run(tmp_path)).read_text()
        assert PLANTED not in page
        assert (
            page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6
        )  # label, its bar, finding, event, recipe, sample

    def test_changed_samples_come_first_and_carry_words(self, tmp_path: Path) -> None:
        page = write_report(make_run(tmp_path)).read_text()
        assert page.index("a:2</code>") < page.index("a:1</code>")
        assert "✗ wrong" in page
        assert "✓ right" in page
        assert "1 of 2 answers changed; 1 of 2 are right after training." in page

    def test_a_run_without_any_result_is_reported_too(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text(json.dumps(RUN | {"status": "running"}))
        page = write_report(tmp_path).read_text()
        assert "The run is not finished; no step is on record." in page

    def test_a_folder_that_is_no_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(Refused, match=r"run\.missing"):
            write_report(tmp_path)

    def test_recipe_rows_keep_their_origin(self) -> None:
        rows = recipe_rows(RECIPE)
        assert rows[0] == ("task", '"classify"', "recipe.yaml:1")
        assert rows[1] == ("model.name", '"starter:minilm"', "recipe.yaml:2")
        assert rows[2] == ("lora.rank", "8", "command line")
        assert rows[4] == ("seed", "0", "default")
        assert [given(row[2]) for row in rows] == [True, True, True, False, False]

    def test_elements_escape_their_attributes(self) -> None:
        assert element("td", "a < b", class_='"x"', hidden=True, title=None) == (
            '<td class="&quot;x&quot;" hidden>a &lt; b</td>'
        )


def card_code(card: str) -> str:
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found
    return found[1]


class TestCard:
    @pytest.mark.parametrize("method", ["lora", "full", "freeze", "features"])
    @pytest.mark.parametrize("task", ["classify", "chat", "complete"])
    def test_front_matter_parses_and_code_compiles(self, tmp_path: Path, task: str, method: str) -> None:
        library = {"lora": "peft", "features": "luthier"}.get(method, "transformers")
        card = model_card(make_run(tmp_path, {"task": task, "method": method, "opens_with": library}))
        matter = yaml.safe_load(card.split("---\n")[1])
        assert matter["library_name"] == library
        assert matter["pipeline_tag"] == ("text-classification" if task == "classify" else "text-generation")
        assert f"import {library}" in card_code(card) or f"from {library} import" in card_code(card)
        compile(card_code(card), "card", "exec")

    def test_only_a_hub_id_becomes_base_model_and_no_path_is_told(self, tmp_path: Path) -> None:
        hub = {"name": "google-bert/bert-base-uncased", "path": "google-bert/bert-base-uncased"}
        card = model_card(make_run(tmp_path, {"model": hub}))
        assert yaml.safe_load(card.split("---\n")[1])["base_model"] == hub["name"]
        local = model_card(make_run(tmp_path, {"model": {"name": "/home/me/bert", "path": "/home/me/bert"}}))
        assert "base_model" not in yaml.safe_load(local.split("---\n")[1])
        assert "/home/me" not in local

    def test_results_stand_with_their_intervals(self, tmp_path: Path) -> None:
        assert "| accuracy | 0.51 | 0.87 | 0.82 to 0.91 | 240 |" in model_card(make_run(tmp_path))

    def test_labels_come_in_the_order_of_their_ids(self, tmp_path: Path) -> None:
        final = make_run(tmp_path) / "final"
        assert class_names(read_run(tmp_path)) == ["negative", PLANTED]
        final.mkdir()
        (final / "config.json").write_text(json.dumps({"id2label": {"10": "c", "0": "a", "2": "b"}}))
        assert class_names(read_run(tmp_path)) == ["a", "b", "c"]

    def test_the_code_of_a_lora_card_runs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A tiny BERT with LoRA, saved by PEFT: the card's code opens it and prints one of its labels."""
        final = make_run(tmp_path) / "final"
        tiny_lora(tmp_path / "base", final)
        monkeypatch.chdir(final)
        code = card_code(model_card(tmp_path))
        exec(compile(code, "card", "exec"), {})  # the card's own code is what is tested
        label, shares = capsys.readouterr().out.split(" ", 1)
        assert label in ("negative", "positive", "neutral")
        assert sum(json.loads(shares)) == pytest.approx(1)


def tiny_lora(base: Path, final: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    base.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "sentence", "to", "judge", "."]
    (base / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(base / "vocab.txt"))
    config = BertConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        id2label={0: "neutral", 1: "positive", 2: "negative"}, label2id={"neutral": 0, "positive": 1, "negative": 2},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    config_of_base = BertConfig(**{**config.to_dict(), "id2label": {0: "LABEL_0", 1: "LABEL_1"}, "label2id": None})
    model.save_pretrained(base)
    config_of_base.save_pretrained(base)  # a base with two outputs, as if it came without the task's head
    lora = LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"], task_type="SEQ_CLS")
    adapted = get_peft_model(model, lora)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(final)
    config.save_pretrained(final)
    tokenizer.save_pretrained(final)


class TestConsole:
    def test_the_trainable_line_is_the_one_of_peft(self) -> None:
        assert trainable_line(294_912, 124_734_720) == (
            "trainable params: 294,912 || all params: 124,734,720 || trainable%: 0.2364"
        )

    def test_plain_lines_come_at_each_tenth_and_hold_no_escape_codes(self, tmp_path: Path) -> None:
        """100 steps of 0.5 s, each recorded: ten lines. At step 10 of 100, 5 s in, 90 x 0.5 = 45 s are left."""
        stream = io.StringIO()
        with Console(stream=stream) as console:
            console.recipe([("task", "classify", "recipe.yaml:1"), ("lora.rank", 8, "default")])
            console.start(100, None)
            for step in range(1, 101):
                console.step({"step": step, "kind": "train", "loss": 0.5, "rows_per_s": 80.1, "seconds": step * 0.5})
            console.evaluation({"step": 100, "kind": "eval", "loss": 0.5, "f1_macro": 0.81})
            console.event({"step": 31, "kind": "event", "event": "oom", "text": "[/red] smaller"})
            console.finish(RESULT, tmp_path)
        printed = stream.getvalue().splitlines()
        steps = [line for line in printed if line.startswith("step ")]
        assert len(steps) == 10
        assert steps[0] == "step 10/100  loss 0.5000  80 rows/s  5.0 s, 0:45 left"
        assert "\x1b" not in stream.getvalue()
        assert "lora.rank  8         default" in printed
        assert "evaluation at step 100  loss 0.5  f1 macro 0.81" in printed
        assert "oom at step 31: [/red] smaller" in printed
        assert printed[-3:] == [
            "accuracy 0.51 (0.45 to 0.57) → 0.87 (0.82 to 0.91), over 240",
            "trainable params: 147,456 || all params: 22,713,986 || trainable%: 0.6492",
            f"run folder: {tmp_path}",
        ]

    def test_time_left_after_a_resume_is_reckoned_from_what_was_seen(self) -> None:
        """Resumed at 50; 51 at 100 s and 60 at 109 s make 1 s a step: 40 s for the 40 that are left."""
        stream = io.StringIO()
        console = Console(stream=stream)
        console.start(100)
        console.event({"step": 50, "kind": "event", "event": "resumed", "resumed_step": 50, "text": "from step 50"})
        for step in range(51, 61):
            console.step({"step": step, "kind": "train", "loss": 1.0, "seconds": 49.0 + step})
        assert stream.getvalue().splitlines()[-1] == "step 60/100  loss 1.0000  1:49, 0:40 left"

    def test_findings_come_errors_first_with_all_their_parts(self) -> None:
        stream = io.StringIO()
        note = Finding("a.note", "x:1", "small", severity="note")
        error = Finding("b.error", "y:2:text", "large", mend="do this", why="it hurts")
        Console(stream=stream).findings([note, error])
        assert stream.getvalue().splitlines() == [
            "errors (1)", "  y:2:text: large  [b.error]", "      why: it hurts", "      mend: do this",
            "notes (1)", "  x:1: small  [a.note]",
        ]  # fmt: skip

    def test_supervised_parts_show_without_colour(self) -> None:
        stream = io.StringIO()
        row = {"source": "a.jsonl:3", "tokens": 5, "runs": [("Hi ", False), ("[b]there", True)], "target": None}
        Console(stream=stream).rows([row])
        assert stream.getvalue() == "a.jsonl:3: 5 tokens\n  Hi ⟦[b]there⟧\n"

    def test_quiet_prints_nothing_and_a_poor_encoding_ends_no_run(self, tmp_path: Path) -> None:
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
        Console(quiet=True, stream=stream).finish(RESULT, tmp_path)
        assert raw.getvalue() == b""
        Console(stream=stream).finish(RESULT, tmp_path)
        assert b"0.51 (0.45 to 0.57) ? 0.87" in raw.getvalue()

    def test_a_terminal_gets_a_bar_and_brackets_stay_text(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setenv("TERM", "xterm-256color")
        stream = Terminal()
        with Console(stream=stream) as console:
            console.start(4)
            console.step({"step": 2, "kind": "train", "loss": 0.25, "seconds": 1.0})
            console.event({"step": 2, "kind": "event", "event": "nan", "text": "rows [7]"})
            console.finish(RESULT, tmp_path)
        assert "\x1b[" in stream.getvalue()
        assert "rows [7]" in stream.getvalue()
        assert "2/4" in stream.getvalue()

    def test_nothing_measured_gives_no_line(self) -> None:
        assert before_after_line(RESULT | {"after": {}}) == ""
        assert before_after_line(RESULT | {"before": None}) == "accuracy 0.87 (0.82 to 0.91), over 240"


def read(folder: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class TestMetrics:
    def test_resuming_keeps_each_step_once(self, tmp_path: Path) -> None:
        """Killed in the middle of step 5's line, resumed from step 3: steps 1 to 3 stay, 4 and 5 come again."""
        old = lines([{"step": step, "kind": "train", "loss": 1.0} for step in (1, 2, 3, 4)])
        (tmp_path / "metrics.jsonl").write_text(old + '{"step": 5, "ki')
        with Metrics(tmp_path) as metrics:
            metrics.write({"step": 0, "kind": "event", "event": "checkpoint-skipped", "text": "flipped byte"})
            metrics.resume(3)
            for step in (4, 5):
                metrics.write({"step": step, "kind": "train", "loss": 2.0})
        assert [(r["step"], r.get("loss")) for r in read(tmp_path)] == [
            (1, 1.0), (2, 1.0), (3, 1.0), (0, None), (4, 2.0), (5, 2.0),
        ]  # fmt: skip

    def test_a_run_that_begins_anew_drops_the_old_file(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text(lines([{"step": 1, "kind": "train", "loss": 1.0}]))
        with Metrics(tmp_path) as metrics:
            metrics.write({"step": 1, "kind": "train", "loss": 2.0})
            assert [record["loss"] for record in read(tmp_path)] == [2.0]  # on disk at once

    def test_opening_alone_loses_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text(lines(RECORDS))
        Metrics(tmp_path).close()
        Metrics(tmp_path, enabled=False).write({"step": 1, "kind": "train", "loss": 1.0})
        assert read(tmp_path) == RECORDS

    def test_nan_is_null_and_told_once(self, tmp_path: Path) -> None:
        with Metrics(tmp_path) as metrics:
            metrics.write({"step": 1, "kind": "train", "loss": float("nan"), "deep": {"x": [float("inf")]}})
            metrics.write({"step": 2, "kind": "event", "event": "nan", "text": "rows 3 and 4"})
            metrics.write({"step": 2, "kind": "train", "loss": float("nan")})
        records = read(tmp_path)
        assert records[0] == {"step": 1, "kind": "train", "loss": None, "deep": {"x": [None]}}
        assert records[1]["event"] == "nan"
        assert records[1]["text"] == "loss was nan; deep.x.0 was inf"
        assert [record["kind"] for record in records[2:]] == ["event", "train"]

    def test_missing_and_unknown_trackers_are_refused_together(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("wandb", "mlflow"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(Refused) as refused:
            Metrics(tmp_path, ["wandb", "mlflow", "neptune"])
        assert [finding.code for finding in refused.value.findings] == [
            "track.missing",
            "track.missing",
            "track.unknown",
        ]
        assert "pip install 'luthier[wandb]'" in refused.value.findings[0].mend

    def test_trackers_get_numbers_by_kind_and_one_that_fails_ends_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        got: list[tuple[dict[str, float], int]] = []

        def log(values: dict[str, float], step: int) -> None:
            if step > 1:
                raise ConnectionError("gone")
            got.append((values, step))

        fake = SimpleNamespace(init=lambda **options: None, log=log, finish=lambda: None)
        monkeypatch.setitem(sys.modules, "trackio", fake)
        with Metrics(tmp_path, ["trackio"]) as metrics:
            for step in (1, 2, 3):
                metrics.write({"step": step, "kind": "train", "loss": 0.5, "note": "x"})
        assert got == [({"train/loss": 0.5}, 1)]
        assert [record.get("event") for record in read(tmp_path)] == [None, None, "tracker-failed", None]

    def test_tensorboard_writes_its_file(self, tmp_path: Path) -> None:
        pytest.importorskip("tensorboard")
        with Metrics(tmp_path, ["tensorboard"]) as metrics:
            metrics.write({"step": 1, "kind": "train", "loss": 0.5})
        (events,) = (tmp_path / "tensorboard").iterdir()
        assert b"train/loss" in events.read_bytes()
