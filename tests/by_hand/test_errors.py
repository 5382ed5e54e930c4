"""What a run keeps of its errors: the confusion of classes by counting, the worst rows by their loss, as a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import luthier
import tiny
from luthier.reports.html import write_report
from luthier.runs.errors import confusion
from luthier.runs.predictor import Predictor
from luthier.tasks.language import LanguageTask

PAIRS = [("a", "a"), ("a", "b"), ("b", "b"), ("a", "b"), ("c", "a"), ("a", "a")]


def test_confusion_by_counting() -> None:
    """a → a twice, a → b twice, b → b once, c → a once; c is never told, and what never occurs has no cell."""
    found = confusion(PAIRS)
    assert found["labels"] == ["a", "b", "c"]
    assert found["cells"] == [["a", "a", 2], ["a", "b", 2], ["b", "b", 1], ["c", "a", 1]]
    assert sum(n for *_, n in found["cells"]) == found["rows"] == 6


@pytest.mark.parametrize("method", ["freeze", "features"])
def test_a_run_keeps_its_worst_rows(method: str, tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """Nothing can be learned of random labels, so many rows are wrong: the worst ones are kept, none that is right."""
    rows = [{"text": f"{word} {i}", "label": f"<{'ab'[i * i % 7 % 2]}>"} for i, word in enumerate(tiny.WORDS * 6)]
    tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    data = {"train": str(tmp_path / "rows.jsonl"), "eval": 0.5}
    run = luthier.tune(
        task="classify", model=tiny_folder("bert"), data=data, method=method, steps=1, out=str(tmp_path / "runs")
    )
    errors = [json.loads(line) for line in (run.folder / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    found = json.loads((run.folder / "confusion.json").read_text(encoding="utf-8"))
    wrong = sum(n for true, told, n in found["cells"] if true != told)
    assert found["rows"] == run.result["data"]["eval"]["used"]
    assert 1 - wrong / found["rows"] == pytest.approx(run.result["after"]["accuracy"]["value"])
    assert 0 < len(errors) <= min(16, wrong)
    assert all(error["right"] is False and error["decided"] != error["target"] for error in errors)
    losses = [error["loss"] for error in errors]
    assert losses == ([None] * len(losses) if method == "features" else sorted(losses, reverse=True))

    page = write_report(run.folder).read_text(encoding="utf-8")
    assert f"{wrong} of {found['rows']} rows held out were taken for another class." in page
    assert "&lt;a&gt;" in page
    assert "<a>" not in page


def test_each_row_is_answered_once_at_the_end(
    tiny_folder: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 rows held out: of the first 24, which are shown, and the 16 worst none is written for twice."""
    asked: list[list[str]] = []
    told = Predictor.told
    monkeypatch.setattr(LanguageTask, "sample_options", {"max_new_tokens": 2})
    monkeypatch.setattr(
        Predictor, "told", lambda self, some: (asked.append([str(one.source) for one in some]), told(self, some))[1]
    )
    rows = [{"text": f"{word} {i} {'cat ' * (i % 5)}"} for i, word in enumerate(tiny.WORDS * 5)]
    data = {"train": tiny.write_jsonl(tmp_path / "train.jsonl", rows[30:]),
            "eval": tiny.write_jsonl(tmp_path / "eval.jsonl", rows[:30])}  # fmt: skip
    run = luthier.tune(
        task="complete", model=tiny_folder("llama"), data=data, method="lora", steps=1, out=str(tmp_path / "runs")
    )
    before, after = asked
    assert len(before) == 24
    assert after[:24] == before
    assert len(after) == len(set(after)) <= 30
    samples, errors = (
        [json.loads(line) for line in (run.folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("samples", "errors")
    )
    assert [sample["source"] for sample in samples] == before
    assert len(errors) == 16
    assert {error["source"] for error in errors} <= set(after)
    answers = {sample["source"]: sample["after"] for sample in samples}
    both = [error for error in errors if error["source"] in answers]
    assert both
    assert [error["answer"] for error in both] == [answers[error["source"]] for error in both]


def test_many_classes_are_listed_by_their_commonest_confusions(tmp_path: Path) -> None:
    pairs = [(f"class {i}", f"class {i + 1}") for i in range(13) for _ in range(i + 1)]
    (tmp_path / "run.json").write_text('{"status": "finished"}', encoding="utf-8")
    (tmp_path / "confusion.json").write_text(json.dumps(confusion(pairs)), encoding="utf-8")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Commonest confusions" in page
    assert page.index("class 12") < page.index("class 11") < page.index("class 1<")
