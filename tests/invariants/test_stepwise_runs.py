"""Rewards for steps while training: a process reward model that learns and judges, and where its judgement is put."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import Trial, asked_rows, assert_same_gradient, ready, reinforced, source

import luthier
import tiny
from luthier.data.formats.steps import step_ends
from luthier.objectives.online import ADVANTAGE
from luthier.objectives.ppo import PLACED, SCORE
from luthier.types import Refused

trial = partial(reinforced, "ppo", {"group_size": 2, "max_new_tokens": 12, "epochs": 1, "beta": 0})
# A byte of its own for every step that a tiny model writes: "s" parts its answers.
LETTERS = (
    "def steps(prompts, answers, expected):\n"
    "    parts = [[p for p in a.split('s') if p.strip()] or [a] for a in answers]\n"
    "    return [[float(len(p)) for p in some] for some in parts]\n"
)


def step_rows(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Steps of one to three words; one with `red` is wrong. Every fifth row has a step that nobody judged."""
    choose, rows = random.Random(seed), []
    for i in range(count):
        steps = [" ".join(choose.choices(tiny.WORDS[:5], k=choose.randint(1, 3))) for _ in range(choose.randint(1, 4))]
        labels: list[bool | None] = ["red" not in step for step in steps]
        if not i % 5 and len(steps) > 1:
            labels[-1] = None
        rows.append({"prompt": f"{i} the", "completions": steps, "labels": labels, "weight": 1 + i % 3})
    return rows


@pytest.mark.parametrize("packing", ["auto", "off"])
def test_one_gradient_for_any_split(packing: str, tiny_folder: Any, tmp_path: Path) -> None:
    made = ready(
        tiny_folder("llama"), "reward", step_rows(8), tmp_path, method="lora", lora={"rank": 2}, packing=packing
    )
    assert made.resolved.recipe.objective == "stepwise"
    trial = Trial(made, tmp_path)
    one, many = (trial.fit(micro_tokens=tokens) for tokens in (10**6, 24))
    assert_same_gradient(many.gradient, one.gradient)
    assert one.losses == pytest.approx(many.losses, rel=1e-5)
    assert one.records[0]["step_accuracy"] == pytest.approx(many.records[0]["step_accuracy"])


def judge(model: str, folder: Path, **keys: Any) -> Any:
    data = {"train": tiny.write_jsonl(folder / "steps.jsonl", step_rows(64)), "eval": 0.25}
    return luthier.tune({
        "task": "reward", "model": model, "data": data, "method": "lora", "steps": 30, "eval_every": 30,
        "learning_rate": 2e-2, "out": str(folder), "name": "judge", **keys,
    })  # fmt: skip


def test_it_learns_opens_again_is_exported_and_judges_in_the_weights_that_are_tuned(
    tiny_folder: Any, tmp_path: Path
) -> None:
    model = tiny_folder("llama")
    run = judge(model, tmp_path)
    before, after = (run.result[at]["step_accuracy"]["value"] for at in ("before", "after"))
    assert after > before
    assert run.result["after"]["loss"]["value"] < run.result["before"]["loss"]["value"]
    name = str(run.folder)
    opened = luthier.load(name)
    asked = [
        {"prompt": "3 the", "steps": ["green cat", "red", "blue"]},
        {"prompt": "3 the", "completion": "red\ngreen"},
    ]
    told = opened.predict(asked)
    assert [len(one["steps"]) for one in told] == [3, 2]
    assert told[0]["score"] == pytest.approx(told[0]["steps"][0] * told[0]["steps"][1] * told[0]["steps"][2], rel=1e-5)
    run.export("merged")

    made = trial(model, tmp_path, rewards=[{"model": name}])
    scorer = made.prepared.task.scorers[name]
    assert scorer.predictor.backbone.model is made.prepared.backbone.model, "one copy of the weights"
    found = scorer([[{"role": "user", "content": "3 the"}]] * 2, ["green cat\nred\nblue", "red\ngreen"], ["", ""])
    assert found[0] == pytest.approx(told[0]["steps"], abs=1e-5)
    assert found[1] == pytest.approx(told[1]["steps"], abs=1e-5)
    assert made.fit().records[0]["reward"] > 0


def test_answers_are_parted_where_the_judge_parts_them(tiny_folder: Any, tmp_path: Path) -> None:
    model = tiny_folder("llama")
    run = judge(model, tmp_path, steps=1, stepwise={"separator": " | "})
    rows = tiny.write_jsonl(tmp_path / "rows.jsonl", asked_rows(8))
    for separator, codes in (("\n", ["reinforce.reward-model"]), (" | ", [])):
        findings, _ = luthier.check(
            task="reinforce", model=model, data=rows, method="lora", grpo={"max_new_tokens": 4},
            reinforce={"rewards": [{"model": str(run.folder)}], "separator": separator},
        )  # fmt: skip
        assert [one.code for one in findings if one.severity == "error"] == codes


def test_an_encoder_judges_no_steps(tiny_folder: Any, tmp_path: Path) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", step_rows(8))
    findings, _ = luthier.check(task="reward", model=tiny_folder("bert"), data=data, method="full")
    assert "model.not-causal" in [one.code for one in findings if one.severity == "error"]


def test_steps_are_rewarded_at_their_last_token(tiny_folder: Any, tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(LETTERS)
    function = {"function": str(tmp_path / "steps.py:steps")}
    made = trial(
        tiny_folder("llama"), tmp_path, rewards=[function], ppo={"gamma": 1.0, "lam": 1.0, "whiten": False},
    )  # fmt: skip
    made.prepared.task.options.separator = "s"
    rollouts = source(made)
    rows = rollouts.rows(0, made.prepared.train.rows)
    tokenizer, several = made.prepared.backbone.tokenizer, 0
    for row in rows:
        ids = row["input_ids"][row["prompt"] :]
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        parts = [part for part in text.split("s") if part.strip()] or [text]
        if len(parts) == 1:
            assert row[PLACED] == []
            assert row[SCORE] == len(parts[0])
            continue
        several += 1
        assert row[PLACED] == list(zip(step_ends(tokenizer, ids, "s"), map(len, parts), strict=True))
        assert row[SCORE] == 0
        for t, found in enumerate(row["returns_n"].tolist()):  # with γ = λ = 1 a return is what is still to come
            assert found == pytest.approx(sum(float(step) for at, step in row[PLACED] if at >= t), abs=1e-3)
    assert several > 2
    assert rollouts.report["reward"][0] == pytest.approx(
        sum(row[SCORE] + sum(step for _, step in row[PLACED]) for row in rows)
    )


def test_a_group_is_compared_by_their_sum(tiny_folder: Any, tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(LETTERS)
    made = reinforced(
        "grpo", {"group_size": 4, "max_new_tokens": 12, "loss": "dr_grpo"}, tiny_folder("llama"), tmp_path,
        rewards=[{"function": str(tmp_path / "steps.py:steps")}],
    )  # fmt: skip
    made.prepared.task.options.separator = "s"
    rows = source(made).rows(0, made.prepared.train.rows)
    tokenizer = made.prepared.backbone.tokenizer
    for at in range(0, len(rows), 4):
        texts = [
            tokenizer.decode(r["input_ids"][r["prompt"] :], skip_special_tokens=True).strip() for r in rows[at : at + 4]
        ]
        sums = [sum(len(p) for p in text.split("s") if p.strip()) for text in texts]
        assert [r[ADVANTAGE] for r in rows[at : at + 4]] == pytest.approx([one - sum(sums) / 4 for one in sums])


def test_a_count_that_is_wrong_stops_before_a_step(tiny_folder: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def bad(prompts, answers, expected):\n    return [[1.0] * 99 for _ in answers]\n")
    made = trial(tiny_folder("llama"), tmp_path, rewards=["number", {"function": str(tmp_path / "bad.py:bad")}])
    with pytest.raises(Refused) as refused:
        made.fit()
    assert {one.code for one in refused.value.findings} == {"reinforce.reward-steps"}
    assert all("rows.jsonl:" in one.where for one in refused.value.findings)
