"""The starter language model, and how it was made: weights drawn from a config, a corpus drawn from a seed."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typed import REPOSITORY, session

import luthier
import tiny
from luthier.models.load import load
from luthier.models.locate import locate
from luthier.sandbox import unavailable

MAKER = REPOSITORY / "starter"


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module that draws the corpus, of a size that takes a moment."""
    if not MAKER.is_dir():
        pytest.skip("this is no clone: the folder `starter` is not here")
    monkeypatch.syspath_prepend(str(MAKER))
    made = importlib.import_module("corpus")
    for name, value in {"TALES": 20, "CONVERSATIONS": 400, "HELD_OUT": 40}.items():
        monkeypatch.setattr(made, name, value)
    yield made
    for name in ("corpus", "functions", "words", "make"):
        sys.modules.pop(name, None)


def test_it_answers_and_stops(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps({"instruction": "Say yes.", "output": "yes"}) + "\n")
    tuned, asked = session(
        tmp_path, "tune --task chat --model starter:lm --data one.jsonl steps=1 learning_rate=1e-9 name=a",
        ("predict runs/a --json", "What is 7 + 5?\nWhat is the opposite of hot?\nTranslate to German: the old boat\n"),
    )  # fmt: skip
    assert tuned.code == 0, tuned.out + tuned.err
    assert [answer["text"] for answer in asked.json] == ["12", "cold", "das alte Boot"]


def test_it_learns_a_tone_in_seconds(tmp_path: Path) -> None:
    """Fine-tuning shows: every answer ends as the rows do."""
    names = [f"What is {a} + {b}?" for a in range(6) for b in range(6)]
    rows = [{"prompt": asked, "completion": f"{sum(map(int, asked[8:-1].split(' + ')))} sir"} for asked in names]
    data = {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", rows), "eval": 0.2}
    run = luthier.tune(task="chat", model="starter:lm", data=data, method="lora", steps=30, learning_rate=5e-3,
                       out=str(tmp_path / "runs"))  # fmt: skip
    assert run.predict(["What is 9 + 4?"])[0]["text"].endswith(" sir")


def test_its_functions_pass_their_tests(tmp_path: Path) -> None:
    if unavailable():
        pytest.skip(unavailable())
    copied, tuned = session(tmp_path, "copy code-functions", "tune code-functions.yaml steps=2 name=code")
    assert (copied.code, tuned.code) == (0, 0), tuned.out + tuned.err
    result = json.loads((tmp_path / "runs/code/result.json").read_text())
    assert result["after"]["pass@1"]["value"] > 0.5


def test_random_weights_are_the_seed_s(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "blank"
    tiny.save("llama", folder)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()

    def drawn(seed: int) -> dict[str, torch.Tensor]:
        return load("blank", str(folder), "token_logits", init="random", seed=seed).model.state_dict()

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert [found.code for found in locate(str(folder), tmp_path)[1]] == ["model.incomplete"]

    rows = tiny.write_jsonl(tmp_path / "rows.jsonl", [{"text": " ".join(tiny.WORDS)}] * 4)
    recipe: dict[str, Any] = {"task": "complete", "model": {"name": str(folder), "init": "random"},
                              "data": {"train": rows}, "out": str(tmp_path / "runs")}  # fmt: skip
    run = luthier.tune({**recipe, "method": "full", "steps": 30, "learning_rate": 1e-2})
    losses = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1]["loss"] < losses[0]["loss"] / 2
    assert len(luthier.load(run.folder).predict(["red"], max_new_tokens=4)) == 1  # it opens by its own weights

    for method in ("lora", "features"):
        task = "classify" if method == "features" else "complete"
        labelled = tiny.write_jsonl(tmp_path / "labelled.jsonl", [{"text": w, "label": w[0]} for w in tiny.WORDS])
        given = {**recipe, "method": method, "task": task}
        findings, _ = luthier.check({**given, "data": {"train": labelled}} if task == "classify" else given)
        assert "model.random-frozen" in {found.code for found in findings if found.severity == "error"}, method

    findings, _ = luthier.check({**recipe, "model": {"name": str(folder)}, "method": "full"})
    assert "model.incomplete" in {found.code for found in findings}


def test_towers_with_weights_are_not_drawn(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    rows = tiny.write_jsonl(tmp_path / "rows.jsonl", [{"image": "a.png", "label": "a"}])
    model = {"image": "a", "text": tiny_folder("bert"), "init": "random"}
    findings, _ = luthier.check(task="classify", model=model, data=rows, method="full")
    assert "model.random-drawn" in {found.code for found in findings if found.severity == "error"}


def test_the_corpus_is_drawn_from_its_seed_and_keeps_its_test_apart(corpus: Any, tmp_path: Path) -> None:
    corpus.write(tmp_path / "a")
    corpus.write(tmp_path / "b")
    sides = {}
    for name in ("texts", "chat", "chat-test", "problems"):
        first, second = ((tmp_path / side / f"{name}.jsonl").read_text(encoding="utf-8") for side in "ab")
        assert first == second
        sides[name] = [json.loads(line) for line in first.splitlines()]
    held_out = {json.dumps(row["messages"]) for row in sides["chat-test"]}
    assert len(sides["chat-test"]) == 40
    assert not held_out & {json.dumps(row["messages"]) for row in sides["chat"]}
    # A problem's first lines stand in no text that is trained on.
    taught = json.dumps([sides["texts"], sides["chat"]])
    assert [one["task_id"] for one in sides["problems"] if json.dumps(one["prompt"])[1:-1] in taught] == []


@pytest.mark.slow
def test_both_recipes_run(corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = importlib.import_module("make")
    monkeypatch.setattr(make, "BUILD", tmp_path / "build" / "starter")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").mkdir()
    corpus.write(make.BUILD)
    make.blank(make.BUILD / "blank")
    for name in ("texts", "chat"):
        (tmp_path / "starter" / f"{name}.yaml").write_text((MAKER / f"{name}.yaml").read_text(encoding="utf-8"))
        run = luthier.tune(f"starter/{name}.yaml", ["steps=2", "eval_every=2"])
        assert run.finished
    assert run.predict(["What is 7 + 5?"], max_new_tokens=2)
