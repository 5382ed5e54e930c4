"""One call of ``luthier check`` tells all that is wrong, each with a code and a place, and shows no traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import tiny
from luthier.cli.main import main

RECIPE = """\
task: chat
model: {model}
data:
  train: train.jsonl
  eval: eval.jsonl
method: lora
learnin_rate: 1e-4
epochs: many
batch_size: -4
schedule: exponential
max_length: 40
overlong: error
track: [tensorbord]
lora:
  rank: 4
  targets: [attention, feedforwards]
full:
  rank: 3
"""
TRAIN = [
    '{"messages": [{"role": "user", "content": "red?"}, {"role": "assistant", "content": "green"}]}',
    '{"messages": [{"role": "user", "content": "blue?"}, {"role": "assistant", "content": "cat"}]',
    '{"messages": [{"role": "user", "content": "dog?"}, {"role": "assistant", "content": ""}]}',
    '{"messages": [{"role": "user", "content": "old?"}, {"role": "asistant", "content": "new"}]}',
    '{"messages": [{"role": "user", "content": "tree?"}, {"role": "assistant", "content": "' + "river " * 50 + '"}]}',
    '{"messages": [{"role": "user", "content": "small?"}, {"role": "assistant", "content": "house"}]}',
]
EVAL = [
    '{"messages": [{"role": "user", "content": "small?"}, {"role": "assistant", "content": "house"}]}',
    '{"messages": [{"role": "user", "content": "and the?"}, {"role": "assistant", "content": "bird"}]}',
]
# Each mistake by its code, and where it must be told.
MISTAKES = [
    ("recipe.unknown-key", r"recipe\.yaml:7:learnin_rate$"),
    ("recipe.value", r"recipe\.yaml:8:epochs$"),
    ("recipe.value", r"recipe\.yaml:9:batch_size$"),
    ("recipe.value", r"recipe\.yaml:10:schedule$"),
    ("recipe.value", r"recipe\.yaml:13:track$"),
    ("recipe.unused-section", r"recipe\.yaml:17:full$"),
    ("data.malformed", r"train\.jsonl:2"),
    ("data.empty-target", r"train\.jsonl:3:messages"),
    ("data.role-unknown", r"train\.jsonl:4:messages"),
    ("data.too-long", r"data\.train"),
    ("data.leak", r"eval\.jsonl:1"),
    ("method.no-target", r"targets"),
]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    told = capsys.readouterr()
    assert "Traceback" not in told.out + told.err
    return int(ended.value.code or 0), told.out


@pytest.fixture
def folder(tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(model=tiny_folder("llama")))
    (tmp_path / "train.jsonl").write_text("\n".join(TRAIN) + "\n")
    (tmp_path / "eval.jsonl").write_text("\n".join(EVAL) + "\n")
    return tmp_path


def test_twelve_mistakes_in_one_call(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "check", "recipe.yaml", "--json")
    told = json.loads(out)
    assert code == 2
    assert told["ok"] is False
    found = [(finding["code"], finding["where"]) for finding in told["findings"] if finding["severity"] == "error"]
    missing = [
        mistake for mistake in MISTAKES if not any(c == mistake[0] and re.search(mistake[1], w) for c, w in found)
    ]
    assert missing == []
    assert len(found) == len(MISTAKES), found
    assert all(finding["what"] and finding["code"] for finding in told["findings"])


def test_the_same_in_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "check", "recipe.yaml")
    assert code == 2
    words = out.replace("\n", " ")
    for mistake, _ in MISTAKES:
        assert f"[{mistake}]" in words
    for near in ("did you mean `learning_rate`?", "feed_forward", "assistant"):
        assert near in words
    assert "12 error(s)" in words


def test_tune_refuses_with_all_of_them_and_leaves_no_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "tune", "recipe.yaml", "--json")
    assert code == 2
    assert {mistake for mistake, _ in MISTAKES} <= {finding["code"] for finding in json.loads(out)["findings"]}
    assert not (folder / "runs").exists()


LABELS = """\
task: classify
model: {model}
data: {{train: train.jsonl, eval: eval.jsonl}}
method: lora
lora: {{rnk: 4, targets: [atention]}}
max_length: 4096
out: {out}
"""


def test_mistakes_of_labelled_rows_in_one_call(
    tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of rows, of the model's length and of its layers come together: none hides another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(LABELS.format(model=tiny_folder("bert"), out="runs"))
    rows = [{"text": f"{word} {i}", "label": ["good", "bad"][i % 2]} for i, word in enumerate(tiny.WORDS)]
    tiny.write_jsonl(tmp_path / "train.jsonl", [*rows, {"text": 5, "label": "good"}, {"text": "red", "label": None}])
    tiny.write_jsonl(tmp_path / "eval.jsonl", [{"text": "old tree", "label": "goood"}, rows[3]])
    code, out = run(capsys, "check", "recipe.yaml", "--json")
    found = {(f["code"], f["where"].split("/")[-1]) for f in json.loads(out)["findings"] if f["severity"] == "error"}
    assert code == 2
    assert {
        ("recipe.unknown-key", "recipe.yaml:5:lora.rnk"),
        ("data.type", "train.jsonl:15:text"),
        ("data.unknown-label", "eval.jsonl:1:label"),
        ("data.leak", "eval.jsonl:2"),
        ("recipe.value", "max_length"),
    } <= found
    codes = {code for code, _ in found}
    assert "method.no-target" in codes
    assert any(code.startswith("data.") and where.startswith("train.jsonl:16") for code, where in found)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no task": ({"task": None}, "recipe.task"),
    "a task that is nearly one": ({"task": "clasify"}, "recipe.task"),
    "no such method": ({"method": "lorra"}, "recipe.method"),
    "no such model": ({"model": "./nowhere"}, "model.missing"),
    "no such data": ({"data": "rowz.jsonl"}, "data.missing"),
    "a share out of range": ({"data": {"train": "rows.jsonl", "eval": 1.5}}, "data.split-share"),
    "features for a text": ({"method": "features", "task": "complete"}, "method.combination"),
    "another task's rows": ({"task": "chat"}, "task.format"),
    "no such metric": ({"metric": "acuracy"}, "recipe.metric"),
    "the best without an evaluation": ({"final": "best"}, "recipe.combination"),
    "patience without an evaluation": ({"patience": 2}, "recipe.combination"),
    "a tracker that is not installed": ({"track": ["mlflow"]}, "track.missing"),
    "more layers than there are": ({"method": "freeze", "freeze": {"last": 9}}, "method.no-target"),
    "an adapter that no layer takes": ({"lora": {"targets": ["vision"]}}, "method.no-target"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_hides_no_other(
    mistake: str, tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of these with an unknown key and a broken row beside it: all are told, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    keys, expected = WRONG[mistake]
    labels = {} if "complete" in keys.values() else {"label": "good"}
    rows = [{"text": f"{word} {i}", **labels} for i, word in enumerate(tiny.WORDS)]
    if labels:
        rows[0]["label"] = "bad"
    path = Path(tiny.write_jsonl(tmp_path / "rows.jsonl", rows))
    path.write_text(path.read_text() + '{"text": "torn\n')
    model = tiny_folder("bert" if labels else "llama")
    recipe = {"task": "classify", "model": model, "data": "rows.jsonl", "epoch": 3, **keys}
    (tmp_path / "recipe.yaml").write_text(json.dumps({key: value for key, value in recipe.items() if value}))
    code, out = run(capsys, "check", "recipe.yaml", "--json")
    found = {finding["code"] for finding in json.loads(out)["findings"]}
    assert code == 2
    assert {expected, "recipe.unknown-key"} <= found
    if expected not in ("recipe.task", "data.missing"):
        assert "data.malformed" in found
    assert not (tmp_path / "runs").exists()
