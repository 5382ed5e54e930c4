"""Methods × ways to predict actions, on an image encoder composed with a text encoder: each learns, and opens again the
same in a fresh process; what means nothing is refused with the reason.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from battery import assert_judged_the_same, assert_loss_fell, assert_refused, cases
from modalities import ACT
from table import METHODS

import luthier
import tiny
from luthier.types import Refused

STEPS = 40
CELLS, refusal = ACT.cells, ACT.refusal
DEFAULT = {
    ("classes", "lora"), ("bins", "adapter: houlsby"), ("flow", "full"), ("flow", "features: logistic"),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The action is told by the colour of the patch and the colour that is asked for together."""
    folder, draw = tmp_path_factory.mktemp("episodes"), random.Random(0)
    named, numbered = [], []
    for at in range(24):
        asked = ("red", "green")[at % 2]
        steps = []
        for step in range(3):
            colour = draw.choice(("red", "green"))
            tiny.save_picture(folder / "frames" / f"{at}-{step}.png", colour, seed=3 * at + step)
            steps.append((f"frames/{at}-{step}.png", colour == asked))
        names = [{"image": file, "action": "go" if same else "turn"} for file, same in steps]
        numbers = [
            {"image": file, "state": [0.5, 10.0 * step], "action": [1.0 if same else -1.0, 5.0]}
            for step, (file, same) in enumerate(steps)
        ]
        named.append({"instruction": f"the {asked}", "trajectory": names})
        numbered.append({"instruction": f"the {asked}", "units": "m", "trajectory": numbers})
    return {
        kind: {"train": tiny.write_jsonl(folder / f"{kind}.jsonl", rows[6:]),
               "eval": tiny.write_jsonl(folder / f"{kind}-eval.jsonl", rows[:6])}
        for kind, rows in (("names", named), ("numbers", numbered))
    }  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    text = tiny_folder("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    eyes = tiny.save_image_model("vit", tmp_path_factory.mktemp("eyes") / "vit")
    return {"image": eyes, "text": text, "fuse": "projection"}


def recipe(predicts: str, method: str, model: Any, data: dict[str, dict[str, str]], out: Path) -> dict[str, Any]:
    act = {"predicts": predicts} if predicts == "classes" else {"predicts": predicts, "chunk": 2, "bins": 8}
    return {
        "task": "act", "act": act, "model": model, "data": data["names" if predicts == "classes" else "numbers"],
        "out": str(out), "steps": STEPS, "batch_size": 54, "eval_every": STEPS, "final": "last", "schedule": "constant",
        "warmup": 0, **METHODS[method], **({"learning_rate": 5e-3} if method == "lora" else {}),
    }  # fmt: skip


@pytest.mark.parametrize(("predicts", "method"), cases(CELLS, DEFAULT, refusal, wanted=False))
def test_a_working_cell(
    predicts: str, method: str, model: dict[str, Any], data: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    asked = recipe(predicts, method, model, data, tmp_path)
    run = luthier.tune(**asked)
    assert_loss_fell(run, to=0.97, over=5)
    assert (run.folder / "final" / "actions.json").is_file()
    assert_judged_the_same(run, asked["data"]["eval"])
    if method == "lora":
        told = run.export("merged")
        assert told["relative"] <= told["bound"]
        assert (Path(told["folder"]) / "actions.json").is_file()


@pytest.mark.parametrize(("predicts", "method"), cases(CELLS, DEFAULT, refusal, wanted=True))
def test_a_refused_cell(
    predicts: str, method: str, model: dict[str, Any], data: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    assert_refused(recipe(predicts, method, model, data, tmp_path), refusal(predicts, method))


def errors(asked: dict[str, Any]) -> set[str]:
    findings, _ = luthier.check(**asked)
    return {finding.code for finding in findings if finding.severity == "error"}


def test_what_means_nothing_is_refused(
    model: dict[str, Any], data: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.models.joined.composed import ComposedModel

    names = recipe("classes", "lora", model, data, tmp_path)
    assert errors(names | {"act": {"predicts": "regression"}}) == {"task.actions"}
    assert errors(names | {"act": {"chunk": 4}}) == {"task.actions"}
    beside = model | {"fuse": "cross_attention"}
    assert errors(names | {"model": beside, "act": {"history": 2}}) == {"recipe.combination"}
    flow = recipe("flow", "lora", model, data, tmp_path)
    assert errors(flow | {"model": model["text"]}) == {"model.no-expert"}
    assert errors(flow | {"objective": "chunk_regression"}) == {"recipe.combination"}
    monkeypatch.setattr(ComposedModel, "forward", _deaf(ComposedModel.forward))
    for predicts in ("classes", "flow"):
        assert errors(recipe(predicts, "lora", beside, data, tmp_path)) == {"model.text-blind"}, predicts


def _deaf(forward: Any) -> Any:
    """Whose words are all one word."""

    def deaf(self: Any, input_ids: Any = None, **inputs: Any) -> Any:
        mask = inputs.pop("attention_mask")
        return forward(self, input_ids=input_ids * 0 + 5, attention_mask=mask * 0 + 1, **inputs)

    return deaf


def test_bad_rows_are_told_all_at_once_with_their_steps(
    model: dict[str, Any], data: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in Path(data["names"]["train"]).read_text().splitlines()][:4]
    folder = Path(data["names"]["train"]).parent
    rows[0]["trajectory"][1]["action"] = None
    rows[1]["trajectory"][2]["image"] = "frames/none.png"
    rows[2]["trajectory"][0]["action"] = [1.0]
    rows[3]["trajectory"] = []
    file = tiny.write_jsonl(folder / "wrong.jsonl", rows)
    findings, _ = luthier.check(**recipe("classes", "lora", model, data, tmp_path) | {"data": file})
    told = {finding.where.split("wrong.jsonl:")[-1] for finding in findings if finding.severity == "error"}
    assert {"1:trajectory[1].action", "3:trajectory[1].action", "4:trajectory"} <= told
    rows = [json.loads(line) for line in Path(data["names"]["train"]).read_text().splitlines()]
    rows[1]["trajectory"][2]["image"] = "frames/none.png"
    file = tiny.write_jsonl(folder / "missing.jsonl", rows)
    findings, _ = luthier.check(**recipe("classes", "lora", model, data, tmp_path) | {"data": file})
    (finding,) = (finding for finding in findings if finding.severity == "error")
    assert (finding.code, finding.where.split(":")[-2]) == ("data.picture", "2")


def test_numbers_of_other_units_and_a_lost_file_are_refused(
    model: dict[str, Any], data: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    run = luthier.tune(**recipe("regression", "lora", model, data, tmp_path / "runs") | {"steps": 2})
    rows = [json.loads(line) for line in Path(data["numbers"]["eval"]).read_text().splitlines()]
    folder = Path(data["numbers"]["eval"]).parent
    seen = {**rows[0]["trajectory"][0], "image": str(folder / rows[0]["trajectory"][0]["image"])}
    seen["instruction"] = "the red"
    (answer,) = run.predict([seen])
    assert [len(action) for action in answer["chunk"]] == [2, 2]
    for state in ([0.5, 10_000.0], [0.5], None):
        with pytest.raises(Refused, match=r"data\.(units|action-size)"):
            run.predict([seen | {"state": state}])
    with pytest.raises(Refused, match=r"data\.units"):
        run.predict([seen | {"units": "mm"}])
    for row in rows:
        for step in row["trajectory"]:
            step["action"] = [1000 * value for value in step["action"]]
    with pytest.raises(Refused, match=r"data\.units"):
        run.evaluate(tiny.write_jsonl(folder / "millimetres.jsonl", rows))
    lost = tmp_path / "lost"
    shutil.copytree(run.folder, lost)
    (lost / "final" / "actions.json").unlink()
    with pytest.raises(Refused, match=r"act\.no-statistics"):
        luthier.load(lost).predict([seen])


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_actions_are_tokens_of_a_decoder(method: str, tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """Told by the instruction and the state alone: without pictures a decoder of text will do."""
    draw, rows = random.Random(0), []
    for at in range(24):
        states = [[round(draw.random(), 3), 2.0] for _ in range(3)]
        steps = [{"state": state, "action": [float(state[0] > 0.5), 5.0 * (at % 2)]} for state in states]
        rows.append({"instruction": ("the red", "the green")[at % 2], "trajectory": steps})
    data = {"train": tiny.write_jsonl(tmp_path / "train.jsonl", rows[6:]),
            "eval": tiny.write_jsonl(tmp_path / "eval.jsonl", rows[:6])}  # fmt: skip
    run = luthier.tune(
        task="act", act={"predicts": "tokens", "bins": 4}, model=tiny_folder("llama"), data=data, steps=60,
        batch_size=54, eval_every=60, final="last", out=str(tmp_path / "runs"), **METHODS[method],
    )  # fmt: skip
    after = run.result["after"]
    assert after["action_error"]["value"] < after["action_error_mean_action"]["value"]
    again = luthier.load(run.folder)
    found = again.evaluate(data["eval"])["metrics"]
    assert found["action_error"]["value"] == pytest.approx(after["action_error"]["value"])
    (answer,) = again.predict([{"instruction": "the red", "state": [1.0, 2.0]}])
    assert len(answer["action"]) == 2
    assert "model.not-causal" in errors({"task": "act", "act": {"predicts": "tokens", "bins": 4}, "data": data,
                                         "model": tiny_folder("bert"), "method": "full"})  # fmt: skip


@pytest.mark.parametrize(("predicts", "name"), [("regression", "bert"), ("tokens", "llama")])
def test_rows_that_are_too_long_are_counted_and_cut_with_their_actions_whole(
    predicts: str, name: str, tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Of the row's tokens the actions, two numbers, are never cut: what stands before them makes room."""
    rows = [{"instruction": "the red " * 12, "trajectory": [{"state": [float(at), 2.0], "action": [float(at), 5.0]}]}
            for at in range(6)]  # fmt: skip
    asked: dict[str, Any] = {
        "task": "act", "act": {"predicts": predicts, "bins": 4}, "model": tiny_folder(name), "method": "full",
        "data": {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", rows), "eval": 0}, "max_length": 16,
    }  # fmt: skip
    findings, prepared = luthier.check(**asked)
    assert "data.too-long" in {finding.code for finding in findings}
    for row in prepared.train.rows:
        assert len(row["input_ids"]) == 16 < row["full_length"]
        assert sum(row.get("supervised", [1, 1])) == 2
    assert errors(asked | {"act": {"predicts": "tokens", "bins": 4, "chunk": 8}, "model": tiny_folder("llama")}) == {
        "task.actions"
    }
