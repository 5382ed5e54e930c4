"""Methods on preferences: every objective by every kind of method learns a toy preference and opens again the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from battery import assert_judged_the_same, assert_loss_fell, assert_only_chosen_moved, assert_refused
from table import METHODS, Cell

import luthier
import tiny
from luthier.types import Refused

STEPS = 18
COLOURS = tiny.WORDS[:2]
DIRECT = ("dpo", "ipo", "simpo", "orpo", "cpo", "kto")
SOME = (
    "full", "freeze: last 1", "lora", "lora: dora", "lora: pissa", "lora: adalora", "ia3", "adapter: houlsby",
    "prompt", "prefix", "lora + norms", "lora + adapter",
)  # fmt: skip
SCORERS = ("llama", "gpt2", "bert", "modernbert-mean", "t5")
CELLS = [("llama", "dpo", method) for method in SOME]
CELLS += [("llama", objective, method) for objective in DIRECT[1:] for method in ("full", "lora", "prefix")]
CELLS += [(model, "dpo", "lora") for model in tiny.DECODERS if model not in ("llama", "llama-tied")]
CELLS += [(model, "bradley_terry", method) for model in SCORERS for method in ("full", "lora", "prompt")]
CELLS += [("llama", "bradley_terry", method) for method in ("freeze: head", "adapter: houlsby", "lora + norms")]
DEFAULT = {
    ("llama", "dpo", "full"), ("llama", "dpo", "lora: pissa"), ("llama", "dpo", "adapter: houlsby"),
    ("llama", "dpo", "lora + norms"), ("gpt2", "dpo", "lora"),
    ("llama", "ipo", "lora"), ("llama", "simpo", "prefix"), ("llama", "orpo", "full"), ("llama", "cpo", "lora"),
    ("llama", "kto", "lora"), ("llama", "bradley_terry", "lora"), ("llama", "bradley_terry", "freeze: head"),
    ("bert", "bradley_terry", "lora"), ("t5", "bradley_terry", "full"), ("modernbert-mean", "bradley_terry", "prompt"),
}  # fmt: skip
# Opened in a process of their own; the others in this one, which is much faster.
FRESH = {("llama", "dpo", "full"), ("llama", "kto", "lora"), ("bert", "bradley_terry", "lora")}
# What a loss can fall by in so few steps.
RATES = {"orpo": 0.95, "cpo": 0.95, "kto": 0.95}
# Where a cell needs another rate than its method has in the table.
APART = {("bert", "bradley_terry", "prompt"): {"learning_rate": 0.03}}
STEERS_LITTLE = {"prompt": 0.99}


def marked(cell: tuple[str, str, str]) -> Any:
    return pytest.param(*cell, id=", ".join(cell), marks=[] if cell in DEFAULT else pytest.mark.slow)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of two colours the first is the better answer, whatever is asked."""
    folder, draw, rows = tmp_path_factory.mktemp("preferences"), random.Random(0), []
    for at in range(40):
        asked = f"{' '.join(draw.choices(tiny.WORDS[3:], k=draw.randint(1, 6)))} {at}"
        rows.append({"prompt": asked, "chosen": f"the {COLOURS[0]}", "rejected": f"the {COLOURS[1]}"})
    return {
        "train": tiny.write_jsonl(folder / "train.jsonl", rows[8:]),
        "eval": tiny.write_jsonl(folder / "eval.jsonl", rows[:8]),
    }


def recipe(model: str, objective: str, method: str, folder: str, data: dict[str, str], out: Path) -> dict[str, Any]:
    task = "reward" if objective == "bradley_terry" else "prefer"
    template = {} if model in tiny.DECODERS else {"template": "plain"}
    return {
        "task": task, "objective": objective, "model": {"name": folder, **template}, "data": data, "out": str(out),
        "steps": STEPS, "batch_size": 32, "eval_every": STEPS, "final": "last", "schedule": "constant", "warmup": 0,
        **METHODS[method], **APART.get((model, objective, method), {}),
    }  # fmt: skip


@pytest.mark.parametrize(("model", "objective", "method"), [marked(cell) for cell in CELLS])
def test_a_cell(
    model: str, objective: str, method: str, data: dict[str, str], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    run = luthier.tune(**recipe(model, objective, method, tiny_folder(model), data, tmp_path))
    assert_loss_fell(run, to=STEERS_LITTLE.get(method, RATES.get(objective, 0.9)))
    assert run.result["after"]["preference_accuracy"]["value"] > 0.7
    task = "single" if objective == "bradley_terry" else "chat"
    assert_only_chosen_moved(run, Cell(model, task, method), tiny_folder(model))
    fresh = (model, objective, method) in FRESH
    close = {"rel": 1e-3, "abs": 1e-4} if method == "lora: pissa" else {}
    assert_judged_the_same(run, data["eval"], fresh=fresh, **close)


@pytest.mark.parametrize(
    ("model", "objective", "method", "code"),
    [
        ("t5", "dpo", "full", "model.encoder-decoder"),
        ("bert", "dpo", "full", "model.not-causal"),
        ("llama", "dpo", "features: logistic", "method.combination"),
        ("bert", "bradley_terry", "features: logistic", "method.combination"),
        ("llama", "next_token", "lora", "recipe.combination"),
    ],
)
def test_what_means_nothing_is_refused(
    model: str, objective: str, method: str, code: str, data: dict[str, str], tiny_folder: Callable[..., str],
    tmp_path: Path,
) -> None:  # fmt: skip
    assert_refused(recipe(model, objective, method, tiny_folder(model), data, tmp_path), code)


def test_an_objective_of_judged_answers_reads_no_other_rows(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"prompt": f"the {word}", "completion": "red"} for word in tiny.WORDS]
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(Refused) as refused:
        luthier.tune(task="chat", objective="dpo", model=tiny_folder("llama"), data=data, out=str(tmp_path))
    assert [finding.code for finding in refused.value.findings] == ["recipe.combination"]
    thumbs = tiny.write_jsonl(tmp_path / "thumbs.jsonl", [row | {"label": True} for row in rows])
    with pytest.raises(Refused) as refused:
        luthier.tune(task="prefer", objective="dpo", model=tiny_folder("llama"), data=thumbs, out=str(tmp_path))
    assert {finding.code for finding in refused.value.findings if finding.severity == "error"} >= {"prefer.unpaired"}
