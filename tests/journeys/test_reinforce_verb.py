"""Learning from rewards with the real command: a reward of one's own, GSM8K's rows, and a reward that rises."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typed import session

import luthier
import tiny

SOME = "grpo.group_size=4 grpo.max_new_tokens=8 batch_size=4 learning_rate=1e-3"
MINE = "def short(prompts, answers, expected):\n    return [-len(answer) for answer in answers]\n"


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [record for record in found if record["kind"] == kind]


@pytest.mark.parametrize(("name", "field"), [("gsm8k/train.jsonl.gz", "number"), ("svamp/svamp.jsonl", "number")])
def test_problems_with_a_final_number_are_read_as_they_are(
    name: str, field: str, shared: Callable[[str], Path], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Every row of the file; what is expected is the number, and no worked solution is a target."""
    model = tiny_folder("llama", max_position_embeddings=2048)
    words = f"check --task reinforce --model {model} --data {shared(f'data/{name}')} overlong=drop max_length=2048"
    (checked,) = session(tmp_path, f"{words} grpo.max_new_tokens=8 --json")
    assert [one for one in checked.json["findings"] if one["severity"] == "error"] == []
    from luthier.data.formats.choose import read_examples

    read = read_examples([str(shared(f"data/{name}"))], base=tmp_path, prefer=("checkable",))
    assert (read.format, read.findings) == ("checkable", [])
    assert all(example.targets and example.targets[0] for example in read.examples)
    assert all(turn["role"] == "user" for example in read.examples for turn in example.messages or [])


def test_a_function_in_a_file_rewards_and_the_run_opens_again(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """Beside the recipe, which is run from elsewhere; the run folder opens the function as its recipe says."""
    (tmp_path / "of").mkdir()
    (tmp_path / "of/mine.py").write_text(MINE)
    rows = [{"prompt": f"{at} {word}", "final": word} for at, word in enumerate(tiny.WORDS * 2)]
    tiny.write_jsonl(tmp_path / "of/rows.jsonl", rows)
    recipe = {
        "task": "reinforce", "model": tiny_folder("llama"), "data": {"train": "rows.jsonl", "eval": 0.25},
        "reinforce": {"rewards": ["contains", {"function": "mine.py:short", "weight": 0.1}]}, "name": "mine",
    }  # fmt: skip
    (tmp_path / "of/recipe.yaml").write_text(json.dumps(recipe))
    tuned, evaluated, said = session(
        tmp_path, f"tune of/recipe.yaml steps=3 {SOME}", "evaluate runs/mine --data of/rows.jsonl --json",
        "predict runs/mine Hello --json",
    )  # fmt: skip
    assert tuned.code == evaluated.code == said.code == 0, tuned.out + tuned.err + evaluated.err + said.err
    for record in records(tmp_path / "runs/mine", "train"):
        total = record["reward_contains"] + 0.1 * record["reward_short"]
        assert record["reward"] == pytest.approx(total, abs=1e-6)
    told = evaluated.json["metrics"]
    assert told["reward"]["value"] == pytest.approx(
        told["reward_contains"]["value"] + 0.1 * told["reward_short"]["value"], abs=1e-6
    )
    assert told["loss"]["value"] == pytest.approx(-told["reward"]["value"], abs=1e-6)
    assert (tmp_path / "runs/mine/report.html").is_file()


def test_the_reward_that_was_chosen_is_the_runs_own(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """Words are expected: exact. The run folder says so, and judges rows of numbers by it too."""
    rows = [{"prompt": f"{at} {word}", "final": word} for at, word in enumerate(tiny.WORDS * 2)]
    run = luthier.tune(
        task="reinforce", model=tiny_folder("llama"), data=tiny.write_jsonl(tmp_path / "rows.jsonl", rows), steps=1,
        grpo={"group_size": 2, "max_new_tokens": 2}, out=str(tmp_path),
    )  # fmt: skip
    again = luthier.load(str(run.folder))
    assert again.resolved.task_options.rewards == ["exact"]
    numbers = tiny.write_jsonl(tmp_path / "numbers.jsonl", [{"prompt": "one more", "final": 1}])
    again.evaluate(numbers)
    assert [reward.name for reward in again.predictor.task.rewards] == ["exact"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["nunber"], "there is no reward 'nunber'"), ([{"format": "("}], "no regular expression"),
        ([{"format": ""}], "write {format: a pattern}"), ([{"function": "mine.py"}], "file.py:name"),
        ([{"number": "x"}], "write {name: number, weight: ...}"), ([], "at least 1"),
    ],
)  # fmt: skip
def test_rewards_that_are_none_are_told(given: list[Any], told: str, tmp_path: Path) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "Hi", "final": 1}] * 3)
    findings, _ = luthier.check(task="reinforce", model="starter:lm", data=data, reinforce={"rewards": given})
    assert told in " ".join(str(finding) for finding in findings)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_reward_of_the_shipped_recipe_rises(seed: int, tmp_path: Path) -> None:
    """Tales in which something is red: about one in eight at first, eight in ten of those drawn at the end, and nearly
    all that are written greedily to prompts held out; every answer still ends, and KL stays under a nat a token."""
    copied, tuned = session(tmp_path, "copy reinforce-lora", f"tune reinforce-lora.yaml seed={seed} name=red")
    assert copied.code == tuned.code == 0, tuned.out + tuned.err
    steps = records(tmp_path / "runs/red", "train")
    assert steps[0]["reward"] < 0.3
    assert sum(record["reward"] for record in steps[-3:]) / 3 > 0.8
    assert steps[-1]["kl"] < 1
    assert steps[-1]["finished"] > 0.8
    result = json.loads((tmp_path / "runs/red/result.json").read_text(encoding="utf-8"))
    assert result["before"]["reward"]["value"] < 0.3
    assert result["after"]["reward"]["value"] > 0.8
