"""Learning from rewards with pictures: a model that was taught to name a colour names the right one more often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toys
from battery import of_each_step

import luthier
import tiny

RATES = {"lora": 1e-2, "full": 3e-3}
SECTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"group_size": 16, "max_new_tokens": 3, "beta": 0.0},
    "ppo": {"group_size": 8, "max_new_tokens": 3, "beta": 0.01, "epochs": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a coloured patch, and turns that ask which colour it is."""
    made = tmp_path_factory.mktemp("pictures")
    rows = []
    for i, (image, colour) in enumerate(toys.pictures(made, ("red", "green"), 32)):
        asked = [
            {"type": "image", "image": image},
            {"type": "text", "text": f" the {tiny.WORDS[3 + i % 9]}"},
        ]
        rows.append({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": colour}]})
    tiny.write_jsonl(made / "train.jsonl", rows[8:])
    tiny.write_jsonl(made / "eval.jsonl", rows[:8])
    return made


@pytest.fixture(scope="module")
def taught(tiny_folder: Callable[..., str], folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Composed of two towers, and taught for a few steps: it says one of the two colours, not always the right one."""
    out = tmp_path_factory.mktemp("taught")
    towers = {"image": tiny.save_image_model("vit", out / "vit"), "text": tiny_folder("llama"), "fuse": "projection"}
    run = luthier.tune({
        "task": "chat", "model": towers, "data": str(folder / "train.jsonl"), "method": "full", "steps": 17,
        "learning_rate": 3e-3, "batch_size": 24, "out": str(out), "name": "taught", "schedule": "constant", "warmup": 0,
    })  # fmt: skip
    return str(run.folder / "final")


@pytest.mark.parametrize(
    ("method", "objective"),
    [("full", "grpo"), pytest.param("full", "ppo", marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_answer_rate_rises_and_it_opens_again(
    method: str, objective: str, taught: str, folder: Path, tmp_path: Path
) -> None:
    """Each picture's own colour: to say always the same one is right half of the time, and no more than that."""
    held_out = str(folder / "eval.jsonl")
    run = luthier.tune({
        "task": "reinforce", "model": taught, "data": {"train": str(folder / "train.jsonl"), "eval": held_out},
        "method": method, "steps": 30, "batch_size": 12, "learning_rate": RATES[method], "warmup": 0, "eval_every": 30,
        "final": "last", "out": str(tmp_path), objective: SECTIONS[objective],
    })  # fmt: skip
    told = of_each_step(run, "reward")
    assert sum(told[-5:]) / 5 > max(0.6, 1.2 * sum(told[:5]) / 5), told
    again = luthier.load(str(run.folder))
    found = again.evaluate(held_out)["metrics"]["reward"]["value"]
    assert found == pytest.approx(run.result["after"]["reward"]["value"])
    asked = {"messages": [{"role": "user", "content": "<image> the cat"}], "image": str(folder / "images/0.png")}
    assert again.predict([asked], max_new_tokens=3) == run.predict([asked], max_new_tokens=3)


def test_a_model_that_reads_no_pictures_is_refused(folder: Path, tiny_folder: Callable[..., str]) -> None:
    findings, _ = luthier.check(
        task="reinforce", model=tiny_folder("llama"), data=str(folder / "train.jsonl"), grpo=SECTIONS["grpo"]
    )  # fmt: skip
    assert "model.no-pictures" in {one.code for one in findings if one.severity == "error"}
