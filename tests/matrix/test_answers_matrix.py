"""Methods on both kinds of `answer`: a head on tokens finds it in the context, or a model that writes writes it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from battery import assert_loss_fell, assert_refused, judged_in_a_fresh_process
from table import METHODS

import luthier
import tiny

STEPS = 30
COLOURS = tiny.WORDS[:3]
EXTRACTS, WRITES = ("bert", "distilbert", "qwen3"), ("llama", "t5")
SOME = (
    "full", "freeze: head", "lora", "lora: dora", "ia3", "adapter: houlsby", "prompt", "prefix", "lora + norms",
)  # fmt: skip
DEFAULT = {
    ("bert", "full"), ("bert", "lora"), ("distilbert", "adapter: houlsby"), ("qwen3", "prefix"), ("qwen3", "full"),
    ("llama", "lora"), ("t5", "adapter: houlsby"), ("bert", "prompt"),
}  # fmt: skip
# A prompt alone steers a frozen random model but little.
RATES = {("llama", "prompt"): 0.995, ("t5", "prompt"): 0.995}
CELLS = [
    pytest.param(model, method, id=f"{model}, {method}", marks=[] if (model, method) in DEFAULT else pytest.mark.slow)
    for model in (*EXTRACTS, *WRITES)
    for method in SOME
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The answer is the word after the colour that the question names."""
    folder, rows = tmp_path_factory.mktemp("answers"), []
    draw = random.Random(0)
    for at in range(40):
        words = draw.choices(tiny.WORDS[3:], k=8)
        colour = COLOURS[at % 3]
        place = 1 + at % 6
        context = " ".join([*words[:place], colour, *words[place:]])
        start = len(" ".join([*words[:place], colour])) + 1
        answers = {"text": [words[place]], "answer_start": [start]}
        rows.append({"context": context, "question": f"the {colour}", "answers": answers})
    return {
        "train": tiny.write_jsonl(folder / "train.jsonl", rows[8:]),
        "eval": tiny.write_jsonl(folder / "eval.jsonl", rows[:8]),
    }


def recipe(model: str, method: str, folder: str, data: dict[str, str], out: Path) -> dict[str, Any]:
    return {
        "task": "answer", "answer": {"kind": "write" if model in WRITES else "extract"}, "model": folder, "data": data,
        "out": str(out), "steps": STEPS, "batch_size": 32, "eval_every": STEPS, "final": "last", "warmup": 0,
        "schedule": "constant", **METHODS[method],
    }  # fmt: skip


@pytest.mark.parametrize(("model", "method"), CELLS)
def test_a_cell(model: str, method: str, data: dict[str, str], tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    run = luthier.tune(**recipe(model, method, tiny_folder(model), data, tmp_path))
    assert_loss_fell(run, to=RATES.get((model, method), 0.9))
    assert {"f1", "exact_match"} <= run.result["after"].keys()
    (found,) = judged_in_a_fresh_process(data["eval"], run)
    for name, expected in run.result["after"].items():
        if name in found:
            assert found[name]["value"] == pytest.approx(expected["value"], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(
    ("model", "method", "kind", "code"),
    [
        ("t5", "full", "extract", "model.encoder-decoder"),
        ("bert", "full", "write", "model.not-causal"),
        ("bert", "features: logistic", "extract", "method.combination"),
    ],
)
def test_what_means_nothing_is_refused(
    model: str, method: str, kind: str, code: str, data: dict[str, str], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    asked = recipe(model, method, tiny_folder(model), data, tmp_path) | {"answer": {"kind": kind}}
    assert_refused(asked, code)
