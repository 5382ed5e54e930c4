"""The ready recipes: each is valid as it is, tells what it is for, comes with its data, and trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typed import REPOSITORY, session, talker

import luthier
from luthier.data.formats.choose import read_examples
from luthier.recipe import read_recipe
from luthier.recipe.stages import split
from luthier.tasks import TASKS

RECIPES = sorted((REPOSITORY / "src/luthier/recipes").glob("*.yaml"))
FEW = "minigrid:BabyAI-GoToRedBallGrey-v0:20@0"
HELD_OUT = 16
ELSEWHERE = {"chat-qlora", "sentiment"}  # refused without a GPU (below); run by the README


def parts(path: Path) -> dict[str, dict[str, Any]]:
    """The stages of a recipe by their names; one without has one."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {stage.name: stage.values for stage in split(values, {}, "")[0]} if "stages" in values else {"": values}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_ready_recipe_is_valid_and_says_what_it_is_for(path: Path) -> None:
    if parts(path).keys() == {""}:
        recipe, findings = read_recipe(path)
        assert recipe is not None
    else:
        findings, _ = luthier.check(path)
    assert findings == []
    first = path.read_text(encoding="utf-8").split("\n")[0]
    assert first.startswith("# ")
    assert first.endswith(".")
    assert len(first) <= 120


def made_on_the_spot(values: dict[str, Any]) -> bool:
    """Whether an environment's expert makes the rows; skips where there is none."""
    made = str((values.get("data") or {}).get("train", "")).startswith("minigrid:")
    if made:
        pytest.importorskip("minigrid")
    return made


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_data_of_a_ready_recipe_is_shipped_and_sound(path: Path) -> None:
    for values in parts(path).values():
        files = [file for key, file in values["data"].items() if isinstance(file, str) and key != "index"]
        if made_on_the_spot(values):
            files = [FEW]
        formats = TASKS.load(values["task"]).Task.formats
        read = read_examples(files, base=path.parent, prefer=formats)
        assert read.findings == []
        assert read.format in formats
        assert len(read.examples) >= 20


def shorten(copied: Path) -> None:
    """Few rows held out: that all of them are sound is told above."""
    for values in parts(copied).values():
        held_out = values["data"].get("eval")
        if isinstance(held_out, str) and held_out.endswith(".jsonl"):
            rows = (copied.parent / held_out).read_text(encoding="utf-8").splitlines(keepends=True)
            (copied.parent / held_out).write_text("".join(rows[:HELD_OUT]), encoding="utf-8")


def test_every_ready_recipe_trains(tmp_path: Path, tiny_folder: Callable[..., str]) -> None:
    """Two steps each, in one process; those that name a hub model get a tiny one in its place."""
    lines, chosen = {}, [path for path in RECIPES if path.stem not in ELSEWHERE]
    copied = session(tmp_path, *(f"copy {path.stem} {path.stem}" for path in chosen))
    assert [answer.out for answer in copied if answer.code != 0] == []
    for path in chosen:
        name, values = path.stem, yaml.safe_load(path.read_text(encoding="utf-8"))
        shorten(tmp_path / name / path.name)
        if "index" in values.get("data", {}):
            folder = Path(values["data"]["index"]).parent
            documents = next(file.name for file in (path.parent / folder).glob("*.md"))
            words = f"{tiny_folder('bert')} {name}/{folder}/{documents} --to {name}/{values['data']['index']}"
            lines[f"index {name}"] = f"index {words} --tokens 40"
        if "distill" in values:
            words = f"--task {values['task']} --model {values['model']} --data {name}/{values['data']['train']}"
            run = Path(values["distill"]["teacher"]).name
            lines[f"teacher {name}"] = f"tune {words} --method full steps=2 name={run} --json"
        own = isinstance(values["model"], dict) or values["model"].startswith("starter:")
        model = f" data.train={FEW} data.eval=0.2" if made_on_the_spot(values) else "" if own else " model=tiny"
        if not own:
            talker(tiny_folder("llama"), tmp_path / name / "tiny")
        steps = " ".join(f"stages.{stage}.steps=2" if stage else "steps=2" for stage in parts(path))
        lines[name] = f"tune {name}/{name}.yaml {steps} name={name} --json{model}"
    answers = dict(zip(lines, session(tmp_path, *lines.values()), strict=True))
    assert {line: answer.out for line, answer in answers.items() if answer.code != 0} == {}
    for name in lines.keys() - {line for line in lines if line.startswith(("index ", "teacher "))}:
        assert json.loads(answers[name].out)["status"] == "finished"
        for stage in parts(RECIPES[0].with_stem(name)):
            assert (tmp_path / "runs" / name / stage / "report.html").is_file()


def test_a_recipe_for_a_gpu_is_refused_in_words_elsewhere(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    _, answer = session(tmp_path, "copy chat-qlora", "check chat-qlora.yaml model=starter:minilm")
    assert answer.code == 2
    assert "method.quantize" in answer.out
