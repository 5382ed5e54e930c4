"""Stages of one recipe: what each begins with, what is told before the first step, and going on where one was cut."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import asked_rows, chat_rows, preference_rows

import luthier
import tiny
from luthier.engine import fit as loop
from luthier.objectives.ppo import Objective
from luthier.recipe.stages import split
from luthier.types import Refused


def recipe(folder: Path, model: str, **changes: Any) -> Path:
    """Chat → reward → PPO on toy rows beside the recipe; the first by LoRA, so that it is folded in for the others."""
    tiny.write_jsonl(folder / "chats.jsonl", chat_rows(8))
    tiny.write_jsonl(folder / "pairs.jsonl", preference_rows(8))
    tiny.write_jsonl(folder / "asked.jsonl", asked_rows(8))
    some = {"steps": 3, "save_every": 1, "batch_size": 4}
    stages: dict[str, Any] = {
        "sft": {"task": "chat", "data": "chats.jsonl", **some},
        "judge": {"task": "reward", "model": "stage:sft", "data": {"train": "pairs.jsonl", "eval": 0.25}, **some},
        "rl": {
            "task": "reinforce", "model": "stage:sft", "data": "asked.jsonl", **some, "steps": 5,
            "reinforce": {"rewards": [{"model": "stage:judge"}, {"name": "number", "weight": 0}]},
            "ppo": {"value_from": "stage:judge", "max_new_tokens": 5, "epochs": 2, "minibatches": 2},
        },
    }  # fmt: skip
    for name, change in changes.items():
        stages[name] |= change
    path = folder / "path.yaml"
    shared = {"model": model, "method": "lora", "lora": {"rank": 2}, "learning_rate": 1e-2, "out": str(folder / "runs")}
    path.write_text(yaml.safe_dump({**shared, "stages": stages}, sort_keys=False), encoding="utf-8")
    return path


def digests(folder: Path) -> dict[str, str]:
    """Of all weights of all stages, as they were saved and as they were merged."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/*/**/*.safetensors"))
        if "checkpoints" not in path.parts
    }


@pytest.fixture(scope="module")
def whole(tiny_folder: Any, tmp_path_factory: Any) -> Path:
    """The run never cut."""
    folder = tmp_path_factory.mktemp("whole")
    run = luthier.tune(recipe(folder, tiny_folder("llama")))
    assert run.finished
    return folder / "runs" / "path"


def test_each_stage_is_a_run_and_the_last_has_one_base(whole: Path) -> None:
    told = json.loads((whole / "stages.json").read_text(encoding="utf-8"))
    assert [(name, one["status"]) for name, one in told.items()] == [
        ("sft", "finished"), ("judge", "finished"), ("rl", "finished")
    ]  # fmt: skip
    judge, rl = (luthier.load(str(whole / name)) for name in ("judge", "rl"))
    assert judge.info["model"]["fingerprint"] == rl.info["model"]["fingerprint"]
    opened = rl.predictor
    (scorer,) = opened.task.scorers.values()
    assert "predictor" not in vars(scorer), "a judge is opened once it is asked"
    assert scorer.predictor.backbone.model is opened.backbone.model is opened.objective.value.model
    assert opened.objective.value.using is not None
    assert (whole / "rl" / "report.html").is_file()
    saved = yaml.safe_load((whole / "rl" / "recipe.yaml").read_text(encoding="utf-8"))
    assert Path(saved["reinforce"]["rewards"][0]["model"]) == (whole / "judge").resolve()


def test_done_stages_are_not_done_again(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("*/final/*.safetensors")}
    assert luthier.tune(whole.parent.parent / "path.yaml").finished
    assert {path: path.stat().st_mtime_ns for path in whole.glob("*/final/*.safetensors")} == before
    assert sorted(path.name for path in whole.iterdir() if path.is_dir()) == [".cache", "judge", "rl", "sft"]


class Cut(BaseException):
    """As a kill: nothing is saved on the way out."""


@pytest.mark.parametrize(
    ("stage", "at"),
    [
        ("sft", 1), pytest.param("judge", 2, marks=pytest.mark.slow), pytest.param("rl", 1, marks=pytest.mark.slow),
        ("rl", 3), pytest.param("rl", 4, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_cut_anywhere_the_same_command_ends_in_the_same_bits(
    stage: str, at: int, whole: Path, tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a step after ``at`` of a stage: in a rollout, between its passes, or between its minibatches."""
    path, plain = recipe(tmp_path, tiny_folder("llama")), loop.gradient_of_sum

    def gradient(backbone: Any, objective: Any, rows: Any, plan: Any, progress: Any, *more: Any) -> Any:
        here = {"rl": isinstance(objective, Objective), "judge": objective.needs == "sequence_logits"}
        if here.get(stage, objective.needs == "token_logits") and progress.step == at:
            raise Cut
        return plain(backbone, objective, rows, plan, progress, *more)

    monkeypatch.setattr(loop, "gradient_of_sum", gradient)
    with pytest.raises(Cut):
        luthier.tune(path)
    monkeypatch.setattr(loop, "gradient_of_sum", plain)
    assert luthier.tune(path).finished
    assert digests(tmp_path / "runs" / "path") == digests(whole)


def test_all_stages_are_checked_before_the_first_step(tiny_folder: Any, tmp_path: Path) -> None:
    """A row of the last one that asks nothing, a key of the second that is none: both, and nothing has run."""
    path = recipe(tmp_path, tiny_folder("llama"), judge={"epoch": 3})
    with (tmp_path / "asked.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"prompt": " ", "final": 3}\n')
    with pytest.raises(Refused) as refused:
        luthier.tune(path)
    places = [finding.where for finding in refused.value.findings if finding.severity == "error"]
    assert any(place.startswith("judge: ") and "path.yaml:" in place for place in places)
    assert any(place.startswith("rl: ") and "asked.jsonl:9" in place for place in places)
    assert not (tmp_path / "runs" / "path").exists() or not list((tmp_path / "runs" / "path").glob("*/run.json"))
    findings, _ = luthier.check(path)
    assert {finding.where for finding in findings} >= set(places)


def test_stages_may_be_given_as_keywords(tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipe(tmp_path, tiny_folder("llama"), judge={"epoch": 3})
    monkeypatch.chdir(tmp_path)
    findings, _ = luthier.check(**yaml.safe_load(path.read_text(encoding="utf-8")))
    assert [one.where.partition(": ")[0] for one in findings if one.severity == "error"] == ["judge"]


@pytest.mark.parametrize("model", ["stage:rl", "stage:judge", "stage:nothing"])
def test_a_stage_begins_with_one_before_it(model: str) -> None:
    given = {"stages": {"sft": {"model": "a"}, "judge": {"model": model}, "rl": {"model": "stage:judge"}}}
    stages, findings = split(given, {"stages.judge": "path.yaml:7"}, "path.yaml")
    assert len(stages) == 3
    (finding,) = findings
    assert (finding.code, finding.where) == ("recipe.stages", "path.yaml:7")
    assert finding.mend == "stages before it: sft"


def test_what_a_stage_says_comes_first_and_what_is_missing_is_left_out() -> None:
    given = {
        "seed": 1, "lora": {"rank": 2, "alpha": 4}, "model": {"name": "a", "template": "plain"},
        "stages": {
            "one": {"lora": {"rank": 3}},
            "two": {
                "model": "stage:one", "seed": 2, "p": ["stage:one"],
                "r": {"rewards": [{"model": "stage:one"}, "exact"]},
            },
        },
    }  # fmt: skip
    (one, two), findings = split(given, {}, "here")
    assert findings == []
    assert one.values == {"seed": 1, "lora": {"rank": 3, "alpha": 4}, "model": {"name": "a", "template": "plain"}}
    filled = two.filled(lambda name: f"{name}/merged", lambda name: f"runs/{name}")
    assert filled == {
        "seed": 2, "lora": {"rank": 2, "alpha": 4}, "model": "one/merged",
        "r": {"rewards": [{"model": "runs/one"}, "exact"]}, "p": ["runs/one"],
    }  # fmt: skip
    bare = two.filled(lambda name: "a", lambda name: None)
    assert (bare["r"], "p" in bare) == ({"rewards": ["exact"]}, False)


def test_other_verbs_say_that_they_read_one_run(tiny_folder: Any, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        luthier.compare(recipe(tmp_path, tiny_folder("llama")), methods="lora,full")
    assert refused.value.findings[0].code == "recipe.stages"
