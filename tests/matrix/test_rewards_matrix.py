"""Methods on rewards: each kind raises the reward of a toy model's own answers, and opens again with the same one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from battery import of_each_step
from table import METHODS

import luthier
import tiny

STEPS = 20
MORE = {
    ("prefix", "grpo"): 40,
    ("ia3", "ppo"): 60,
    ("prompt", "ppo"): 100,
}  # few numbers, or a value model beside
SOME = (
    "full", "freeze: last 1", "lora", "lora: dora", "lora: pissa", "ia3", "adapter: houlsby", "prompt", "prefix",
    "lora + norms", "lora + adapter",
)  # fmt: skip
CELLS = [("llama", method) for method in SOME]
CELLS += [(model, "lora") for model in tiny.DECODERS if model not in ("llama", "llama-tied")]
DEFAULT = {("llama", "full"), ("llama", "lora"), ("llama", "adapter: houlsby"), ("llama", "prefix"), ("gpt2", "lora")}
QUICK = {("llama", "full"), ("llama", "lora")}
# Full of small letters: a third of what a random model says is something else.
REWARD = "def small(prompts, answers, expected):\n    return [sum('a' <= c <= 'z' for c in a) / 24 for a in answers]\n"


SECTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"group_size": 8, "max_new_tokens": 8, "beta": 0.01},
    "ppo": {"group_size": 8, "max_new_tokens": 8, "beta": 0.01, "epochs": 1},
}


def marked(cell: tuple[str, str], objective: str) -> Any:
    quick = cell in DEFAULT and (objective == "grpo" or cell in QUICK)
    marks = [] if quick else pytest.mark.slow
    return pytest.param(*cell, objective, id=", ".join((*cell, objective)), marks=marks)


@pytest.mark.parametrize(
    ("model", "method", "objective"), [marked(cell, objective) for objective in SECTIONS for cell in CELLS]
)
def test_it_learns_and_opens_again(
    model: str, method: str, objective: str, tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(REWARD)
    steps = MORE.get((method, objective), STEPS)
    rows = [{"prompt": f"{at} {word}", "final": word} for at, word in enumerate(tiny.WORDS * 2)]
    held_out = tiny.write_jsonl(tmp_path / "eval.jsonl", rows[:8])
    data = {"train": tiny.write_jsonl(tmp_path / "train.jsonl", rows[8:]), "eval": held_out}
    run = luthier.tune({
        "task": "reinforce", "model": tiny_folder(model), "data": data, "out": str(tmp_path), "steps": steps,
        "batch_size": 8, "eval_every": steps, "final": "last", "warmup": 0, **METHODS[method],
        "reinforce": {"rewards": [{"function": str(tmp_path / "mine.py:small")}]},
        objective: SECTIONS[objective],
    })  # fmt: skip
    told = of_each_step(run, "reward")
    assert sum(told[-3:]) > 1.2 * sum(told[:3]), told
    again = luthier.load(str(run.folder)).evaluate(held_out)["metrics"]
    assert again["reward"]["value"] == pytest.approx(run.result["after"]["reward"]["value"], abs=1e-6)
