"""What of a soft prompt or a prefix cannot be, told before the start, with what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import luthier
import tiny
from luthier.types import Finding


@pytest.fixture
def found(tiny_folder: Callable[..., str], tmp_path: Path) -> Callable[..., list[Finding]]:
    """The errors of a recipe on two rows."""
    rows = [{"text": f"the {word} house", "label": word} for word in ("red", "green")]
    data = {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", rows), "eval": 0.0}

    def check(model: str, **keys: Any) -> list[Finding]:
        findings, _ = luthier.check(task="classify", model=tiny_folder(model), data=data, **keys)
        return [finding for finding in findings if finding.severity == "error"]

    return check


@pytest.mark.parametrize(
    ("options", "where", "part"),
    [
        ({"init": "text"}, "prompt.text", "no text"),
        ({"init": "text", "text": "  "}, "prompt.text", "no text"),
        ({"text": "red or green"}, "prompt.text", "alone"),
        ({"encoder": "mlp", "init": "vocabulary"}, "prompt.init", "no effect"),
        ({"hidden": 8}, "prompt.hidden", "no effect"),
    ],
)
def test_settings_that_need_each_other(options: dict[str, Any], where: str, part: str, found: Any) -> None:
    (finding,) = found("bert", method="prompt", prompt=options)
    assert (finding.code, finding.where) == ("recipe.combination", where)
    assert part in finding.what
    assert finding.mend


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_no_virtual_token_at_all(method: str, found: Any) -> None:
    findings = found("bert", method=method, **{method: {"num_virtual_tokens": 0}})
    assert [finding.code for finding in findings] == ["recipe.value"]
    assert findings[0].where.endswith(f"{method}.num_virtual_tokens")


@pytest.mark.parametrize(("model", "method"), [("bert", "prompt"), ("gpt2", "prompt"), ("gpt2", "prefix")])
@pytest.mark.parametrize("count", [121, 128, 500])
def test_one_that_leaves_no_room_in_the_context(model: str, method: str, count: int, found: Any) -> None:
    """The tiny models have 128 positions, and a row needs 8."""
    (finding,) = found(model, method=method, **{method: {"num_virtual_tokens": count}})
    assert finding.code == "method.no-room"
    assert finding.where == f"{method}.num_virtual_tokens"
    assert "at most 120" in finding.mend


@pytest.mark.parametrize(("model", "method", "left"), [
    ("bert", "prompt", 108), ("gpt2", "prompt", 108), ("gpt2", "prefix", 108), ("bert", "prefix", 128),
])  # fmt: skip
def test_rows_are_cut_to_the_positions_that_are_left(
    model: str, method: str, left: int, tiny_folder: Any, tmp_path: Path
) -> None:
    """A decoder's tokens count on from its prefix; an encoder's keep their own positions."""
    row = {"text": " ".join(["tree"] * 300), "label": "red"}
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", [row, {"text": "house", "label": "green"}])
    keys: dict[str, Any] = {"data": {"train": data, "eval": 0.0}, "method": method}
    _, prepared = luthier.check(task="classify", model=tiny_folder(model), **keys)
    assert prepared.resolved.recipe.max_length == prepared.backbone.max_positions == left
    assert max(len(features["input_ids"]) for features in prepared.train.rows) == left
    given, _ = luthier.check(task="classify", model=tiny_folder(model), max_length=left + 1, **keys)
    assert [finding.where for finding in given if finding.severity == "error"] == ["max_length"]


def test_a_prefix_where_attention_is_the_model_s_own(found: Any) -> None:
    (finding,) = found("deberta-v2", method="prefix")
    assert finding.code == "method.no-target"
    assert "would change nothing" in finding.what
    assert "`prompt`" in finding.mend


@pytest.mark.parametrize(("method", "options", "rate"), [
    ("prompt", {}, 3e-2), ("prompt", {"encoder": "lstm"}, 3e-3), ("prefix", {}, 3e-4),
    ("prefix", {"projection": False}, 3e-2),
])  # fmt: skip
def test_the_learning_rate_suits_what_trains(
    method: str, options: dict[str, Any], rate: float, tiny_folder: Any, tmp_path: Path
) -> None:
    """An MLP or LSTM moves all embeddings at once; at the rate of plain ones the model collapses."""
    rows = [{"text": f"the {word} house", "label": word} for word in ("red", "green")]
    data = {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", rows), "eval": 0.0}
    keys: dict[str, Any] = {"method": method, method: options}
    _, prepared = luthier.check(task="classify", model=tiny_folder("bert"), data=data, **keys)
    assert prepared.resolved.recipe.learning_rate == rate
