"""Unit tests as a reward of written code: what passes, what does not, and rows that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import Trial, ready

import luthier
import tiny
from luthier.evaluate.rewards import Answer, judge

SOME = {"group_size": 4, "max_new_tokens": 6}
PROBLEM = {
    "prompt": 'def double(x):\n    """Twice x."""\n', "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
}  # fmt: skip


def test_unit_tests_are_a_reward(tiny_folder: Any, tmp_path: Path) -> None:
    """Right code, wrong code, code that never ends, an answer that is no code, and code that would be right whatever
    the test: only what is right is 1. In a run a tiny model's answers are 0, and nothing stops."""
    rows = [PROBLEM | {"prompt": f"# {at}\n{PROBLEM['prompt']}"} for at in range(8)]
    made = ready(
        tiny_folder("llama", max_position_embeddings=512), "reinforce", rows, tmp_path, grpo=SOME, method="lora",
        reinforce={"rewards": ["tests", {"name": "contains", "weight": 0.1}]},
    )  # fmt: skip
    assert "task.tests-run" in {one.code for one in made.findings}
    texts = [
        "    return x + x", "def double(x):\n    return x * x",
        "Sure:\n```python\ndef double(x):\n    return 2 * x\n```", "    while True: pass", "I can't.",
        "class Same:\n    __eq__ = lambda a, b: True\ndef double(x):\n    return Same()",
    ]  # fmt: skip
    row = made.train.rows[0]
    answers = [Answer(row["messages"], text, row["expected"], row["where"], row["problem"]) for text in texts]
    found = judge(made.task.rewards, answers)
    assert [one.parts["tests"] for one in found] == [1, 0, 1, 0, 0, 0]
    fitted = Trial(made, tmp_path).fit(batch_size=1)
    assert fitted.records[0]["reward_tests"] == 0


def test_a_row_without_tests_is_refused_where_they_are_the_reward(tiny_folder: Any, tmp_path: Path) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", [PROBLEM, {key: PROBLEM[key] for key in list(PROBLEM)[:3]}])
    findings, _ = luthier.check(
        task="reinforce", model=tiny_folder("llama"), data=data, reinforce={"rewards": ["tests"]}
    )  # fmt: skip
    errors = [(one.code, one.where) for one in findings if one.severity == "error"]
    assert ("reinforce.tests", f"{data}:2") in errors
