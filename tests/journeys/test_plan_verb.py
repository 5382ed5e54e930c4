"""``luthier plan`` as a person types it: told before, compared after, corrected by runs, refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest
from typed import Answer, session

import tiny

MISTAKES = {
    "plan nowhere.yaml": ("recipe.missing", "nowhere.yaml"),
    "plan": ("recipe.missing", "there is no recipe"),
    "plan recipe.yaml --device H10-80GB": ("plan.device", "H100-80GB"),
    "plan recipe.yaml model=./no-such-model": ("model.missing", "no-such-model"),
    "plan recipe.yaml model=nobody/nothing": ("model.unreadable", "nobody/nothing"),
    "plan recipe.yaml model=starter:maxilm": ("model.missing", "starter:minilm"),
    "plan recipe.yaml data=no-rows.jsonl": ("data.missing", "no-rows.jsonl"),
    "plan recipe.yaml lora.rnk=4": ("recipe.unknown-key", "`rank`"),
    "plan recipe.yaml --device T4 precision=bf16": ("machine.precision", "T4 has no bf16"),
    "plan recipe.yaml lora.targets=[nose]": ("method.no-target", "nose"),
    "plan bare.yaml": ("model.incomplete", "config.json"),
}
GOOD = {
    "cpu": "plan recipe.yaml --json",
    "padded": 'plan recipe.yaml packing="off" --json',
    "full": "plan recipe.yaml method=full --json",
    "features": "plan recipe.yaml method=features --json",
    "frozen": "plan recipe.yaml method=freeze --json",
    "gpu": "plan --device a100-40gb --json recipe.yaml micro_tokens=64",
    "large": "plan large.yaml --device T4 --json",
    "words": "plan recipe.yaml",
    "tune": "tune recipe.yaml steps=4 --json",
    "again": "plan recipe.yaml steps=4 --json",
    "words again": "plan recipe.yaml steps=4",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[..., str]) -> dict[str, Answer]:
    folder = tmp_path_factory.mktemp("plan")
    rows = [{"text": f"{word} {'cat ' * (i % 7)}{i}", "label": "ab"[i % 2]} for i, word in enumerate(tiny.WORDS * 4)]
    tiny.write_jsonl(folder / "rows.jsonl", rows)
    shutil.copytree(tiny_folder("bert"), folder / "model")
    (folder / "bare").mkdir()
    # A config and a tokenizer without weights are enough, and this one is too large for the device it is planned for.
    shutil.copytree(tiny_folder("bert"), folder / "large", ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "large/config.json").read_text(encoding="utf-8"))
    config |= {"hidden_size": 8192, "intermediate_size": 32768, "num_attention_heads": 64, "num_hidden_layers": 3}
    (folder / "large/config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, model, more in (("recipe", "model", ""), ("bare", "bare", ""), ("large", "large", "method: full\n")):
        text = f"task: classify\nmodel: ./{model}\ndata: rows.jsonl\n{more}"
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    lines = [*MISTAKES, *GOOD.values()]
    return dict(zip([*MISTAKES, *GOOD], session(folder, *lines), strict=True))


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_refused_in_words(line: str, answers: dict[str, Answer]) -> None:
    answer = answers[line]
    assert answer.code == 2, answer.out
    assert "Traceback" not in answer.out + answer.err
    for word in MISTAKES[line]:
        assert word in answer.out


def test_what_is_told(answers: dict[str, Answer]) -> None:
    told = answers["cpu"].json
    assert answers["cpu"].code == 0
    assert told["fits"] is True
    assert told["advice"] == []
    assert sum(told["memory"]["parts_mb"].values()) == pytest.approx(told["memory"]["peak_mb"], abs=1)
    assert told["time"]["origin"] == "measured here"
    assert told["time"]["steps"] > 0
    assert told["time"]["run_s"] > 0
    assert told["disk_mb"].keys() == {"checkpoints", "final"}
    assert told["model"]["layout"] == "packed"
    assert answers["padded"].json["model"]["layout"] == "padded"


def test_methods_differ_as_they_should(answers: dict[str, Answer]) -> None:
    lora, full, features, frozen = (answers[name].json for name in ("cpu", "full", "features", "frozen"))
    assert full["model"]["trainable"] == full["model"]["parameters"]
    assert lora["model"]["trainable"] < full["model"]["trainable"]
    assert features["model"]["trainable"] == features["time"]["steps"] == 0
    assert 0 < frozen["model"]["trainable"] < full["model"]["trainable"]
    assert full["disk_mb"]["checkpoints"] > lora["disk_mb"]["checkpoints"]


def test_a_named_gpu(answers: dict[str, Answer]) -> None:
    told = answers["gpu"].json
    assert told["device"]["name"] == "A100-40GB"
    assert told["model"]["precision"] == "bf16"
    assert told["time"]["origin"] == "data sheet"
    assert "base" not in told["memory"]["parts_mb"]


def test_what_does_not_fit_is_told_what_would(answers: dict[str, Answer]) -> None:
    """Three layers of width 8192, all trained: 16 bytes for each of 2.4 thousand million numbers, on a T4 of 16 GB."""
    told = answers["large"].json
    assert answers["large"].code == 0
    assert told["fits"] is False
    assert told["memory"]["peak_mb"] > 16 * 2.4e9 / 2**20
    assert ["method=lora"] in [one["change"] for one in told["advice"] if one["fits"]]
    assert all(one["peak_mb"] < told["memory"]["peak_mb"] for one in told["advice"])


def test_words(answers: dict[str, Answer]) -> None:
    text = answers["words"].out
    for word in ("weights", "base", "peak", "fits in", "time", "disk", "an estimate"):
        assert word in text
    assert "corrected" not in text


def test_a_run_corrects_the_next_plan(answers: dict[str, Answer]) -> None:
    """Planned again, that very run's peak is the one that was measured; its time rests on its steps."""
    run, again = answers["tune"].json, answers["again"].json
    assert again["memory"]["origin"].startswith("corrected by 1 run: ×")
    assert again["memory"]["peak_mb"] == pytest.approx(run["result"]["peak_memory_mb"], rel=0.02)
    assert again["time"]["origin"].startswith("from the measured steps of 1 run")
    assert "corrected by 1 run" in answers["words again"].out
