"""Methods × models on `plan`: each learns to write steps, and opens again the same in a fresh process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from battery import assert_judged_the_same, assert_loss_fell
from table import METHODS

import luthier
import tiny
from luthier.types import Refused

SOME = ("full", "lora", "adapter: houlsby", "prefix", "freeze: last 1", "lora + adapter")
QUICK = {("llama", "lora")}
CELLS = [
    pytest.param(model, method, id=f"{model}, {method}", marks=[] if (model, method) in QUICK else pytest.mark.slow)
    for model in ("llama", "gpt2", "t5", "bart")
    for method in SOME
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("plans")
    rows = [
        {"instruction": f"{one} {two}", "steps": [f"the {two}", one]}
        for one in tiny.WORDS[:6] for two in tiny.WORDS[6:12]
    ]  # fmt: skip
    return {"train": tiny.write_jsonl(folder / "train.jsonl", rows[4:]),
            "eval": tiny.write_jsonl(folder / "eval.jsonl", rows[:4])}  # fmt: skip


@pytest.mark.parametrize(("model", "method"), CELLS)
def test_a_cell(model: str, method: str, data: dict[str, str], tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    run = luthier.tune(
        task="plan", model=tiny_folder(model), data=data, out=str(tmp_path), steps=30, batch_size=32, eval_every=30,
        final="last", warmup=0, schedule="constant", plan={"max_new_tokens": 12}, **METHODS[method],
    )  # fmt: skip
    assert_loss_fell(run)
    assert {"exact_match", "step_accuracy"} <= run.result["after"].keys()
    assert_judged_the_same(run, data["eval"])


@pytest.mark.parametrize(
    ("model", "method", "code"),
    [("bert", "full", "model.not-causal"), ("llama", "features: logistic", "method.combination")],
)
def test_what_means_nothing_is_refused(
    model: str, method: str, code: str, data: dict[str, str], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(Refused) as refused:
        luthier.tune(task="plan", model=tiny_folder(model), data=data, out=str(tmp_path), steps=2, **METHODS[method])
    assert code in {finding.code for finding in refused.value.findings}
