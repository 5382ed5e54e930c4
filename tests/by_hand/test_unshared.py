"""Prompts that can't be shared: told once, with the reason, and the rows count whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import luthier
import tiny
from luthier.engine.accumulate import size
from luthier.plan.memory import weigh
from luthier.plan.plan import _here, _prepare
from luthier.plan.trace import Trace
from luthier.recipe import read_recipe

PAIRS = [
    {"prompt": f"the {word} and the", "chosen": tiny.WORDS[1], "rejected": tiny.WORDS[2]} for word in tiny.WORDS[3:7]
]


def checked(folder: Path, model: str, **keys: Any) -> tuple[list[str], Any]:
    data = tiny.write_jsonl(folder / "pairs.jsonl", PAIRS)
    findings, prepared = luthier.check(task="prefer", model=model, data={"train": str(data), "eval": 0.0}, **keys)
    assert prepared is not None, findings
    return [one.what for one in findings if one.code == "model.unshared"], prepared


def test_a_pair_counts_what_both_answers_begin_with_once(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    told, prepared = checked(tmp_path, tiny_folder("llama"), method="lora")
    assert told == []
    row = prepared.train.rows[0]
    first, second = row["lengths"]
    alike = next(at for at in range(first) if row["input_ids"][at] != row["input_ids"][first + at])
    assert alike > 3
    assert size(row) == first + second - alike


@pytest.mark.parametrize(
    ("model", "keys", "why"),
    [
        ("gemma2", {"method": "lora"}, "only causal attention without a cap on its scores shares a beginning"),
        ("llama", {"method": "prompt"}, "virtual tokens stand before each sequence"),
        ("llama", {"method": "lora", "packing": "off"}, None),
    ],
)
def test_why_prompts_are_not_shared_is_told_once(
    model: str, keys: dict[str, Any], why: str | None, tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    told, prepared = checked(tmp_path, tiny_folder(model), **keys)
    assert len(told) == (why is not None)
    assert all(why is not None and why in one for one in told), told
    assert all(size(row) == len(row["input_ids"]) for row in prepared.train.rows)


def test_a_plan_reckons_with_what_is_shared(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """Its largest micro-batch is the tokens that the run computes, as the run counts them."""
    data = tiny.write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    given = {
        "task": "prefer", "model": tiny_folder("llama"), "data": {"train": str(data), "eval": 0.0}, "method": "lora",
        "steps": 1, "batch_size": 4, "out": str(tmp_path),
    }  # fmt: skip
    resolved, findings = read_recipe(given)
    assert resolved is not None, findings
    trace = Trace()
    prepared = _prepare(resolved, _here(), trace, [])
    assert prepared.backbone.shares
    assert weigh(prepared, trace).tokens_of_largest == sum(size(row) for row in prepared.train.rows)
    assert sum(size(row) for row in prepared.train.rows) < sum(len(row["input_ids"]) for row in prepared.train.rows)
