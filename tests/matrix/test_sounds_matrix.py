"""Every method on models that hear, classifying sounds and writing down what is said in them: it runs, learns, trains
only what was chosen and opens again the same in a fresh process, or is refused with the reason.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from battery import assert_judged_the_same, assert_loss_fell, assert_refused, cases
from modalities import EARS, HEARS, SOUNDS, heard
from safetensors.torch import load_file
from table import METHODS

import luthier
import tiny

pytestmark = pytest.mark.usefixtures("few_resamples")

STEPS = 30
refusal = heard
CELLS = [(task, *cell) for task, told in zip(HEARS, SOUNDS, strict=True) for cell in told.cells]
DEFAULT = {
    ("classify", "wav2vec2", "lora"), ("classify", "whisper", "full"), ("classify", "ast", "features: logistic"),
    ("transcribe", "wav2vec2", "full"), ("transcribe", "wav2vec2-bert", "lora"),
    ("transcribe", "hubert", "freeze: head"),
    ("transcribe", "parakeet", "adapter: pfeiffer"), ("classify", "hubert", "prompt"),
    ("transcribe", "whisper", "lora"),
    ("transcribe", "wav2vec2", "features: knn"), ("transcribe", "wavlm", "prefix"), ("classify", "hubert", "prefix"),
}  # fmt: skip
FRESH = {("classify", "wav2vec2", "lora"), ("transcribe", "wav2vec2-bert", "lora")}
"""Of the default ones those that are opened in another process, which takes longer than all the rest."""
APART: dict[tuple[str, str, str], dict[str, Any]] = {("classify", "whisper", "prefix"): {"learning_rate": 5e-3}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A low and a high tone, as a label and as letters; two of the eval rows are of other lengths."""
    made = tmp_path_factory.mktemp("sounds")
    rows = []
    for i in range(24):
        name, pitch = (("low", 300.0), ("high", 1800.0))[i % 2]
        tiny.save_tone(made / f"sounds/{i}.wav", [pitch + 10 * i], seconds=0.25 + 0.05 * (i % 3), seed=i)
        rows.append({"audio": f"sounds/{i}.wav", "label": name, "text": name[0]})
    for kind, column in (("classify", "label"), ("transcribe", "text")):
        some = [{"audio": row["audio"], column: row[column]} for row in rows]
        tiny.write_jsonl(made / f"{kind}.jsonl", some[6:])
        tiny.write_jsonl(made / f"{kind}-eval.jsonl", some[:6])
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = tmp_path_factory.mktemp("models")
    return {kind: tiny.save_sound_model(kind, made / kind) for kind in EARS}


def recipe(cell: tuple[str, str, str], models: dict[str, str], folder: Path, out: Path) -> dict[str, Any]:
    task, model, method = cell
    data = {"train": str(folder / f"{task}.jsonl"), "eval": str(folder / f"{task}-eval.jsonl")}
    return {
        "task": task, "model": models[model], "data": data, "out": str(out), "steps": STEPS, "batch_size": 18,
        "eval_every": STEPS, "final": "last", "schedule": "constant", "warmup": 0, **METHODS[method],
        **APART.get(cell, {}),
    }  # fmt: skip


@pytest.mark.parametrize(("task", "model", "method"), cases(CELLS, DEFAULT, refusal, wanted=False))
def test_a_working_cell(
    task: str, model: str, method: str, models: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    cell = task, model, method
    run = luthier.tune(**recipe(cell, models, folder, tmp_path))
    final = run.folder / "final"
    if method.startswith("features"):
        train = recipe(cell, models, folder, tmp_path)["data"]["train"]
        assert run.evaluate(train)["metrics"]["accuracy"]["value"] > 0.6
        assert not list(final.glob("model*.safetensors"))
    else:
        assert_loss_fell(run)
        assert_only_chosen_moved(final, method, models[model])
    held_out = recipe(cell, models, folder, tmp_path)["data"]["eval"]
    assert_judged_the_same(run, held_out, fresh=cell in FRESH or cell not in DEFAULT)


def assert_only_chosen_moved(final: Path, method: str, model: str) -> None:
    """Of a whole model, what was not chosen is bit-equal to the checkpoint; an adapter brings its own numbers alone."""
    if (final / "adapter_config.json").is_file():
        marks = (
            "lora_",
            "ia3_",
            "vera_",
            "oft_",
            ".adapter",
            "prompt_",
            "classifier",
            "projector",
            "lm_head",
            "ctc_head",
        )
        assert all(any(mark in name for mark in marks) for name in load_file(final / "adapter_model.safetensors"))
    if not method.startswith(("full", "freeze")):
        return
    before, after = load_file(Path(model) / "model.safetensors"), load_file(final / "model.safetensors")
    # What classifies holds Whisper's encoder alone, under a shorter name.
    places = {name: name if name in after else name.removeprefix("model.") for name in before}
    common = [n for n, place in places.items() if place in after and before[n].shape == after[place].shape]
    assert len(common) > 10
    moved = {name for name in common if not before[name].equal(after[places[name]])}
    heads = ("classifier", "projector", "lm_head", "ctc_head")
    chosen = {
        "freeze: head": lambda name: False, "freeze: norms": lambda name: "norm" in name.lower(),
        "freeze: biases": lambda name: name.endswith("bias"),
    }.get(method, lambda name: True)  # fmt: skip
    assert all(chosen(name) or any(head in name for head in heads) for name in moved), sorted(moved)[:5]
    if method == "full":  # it began at the checkpoint: 30 steps of at most the learning rate, 0.003
        assert all((before[name] - after[places[name]]).abs().max() < 0.1 for name in moved)
    assert not any("running_" in name for name in moved), "statistics stay"


@pytest.mark.parametrize(("task", "model", "method"), cases(CELLS, DEFAULT, refusal, wanted=True))
def test_a_refused_cell(
    task: str, model: str, method: str, models: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    assert_refused(recipe((task, model, method), models, folder, tmp_path), refusal(task, model, method))


def test_what_does_not_fit_is_refused(models: dict[str, str], folder: Path, tmp_path: Path) -> None:
    text = tiny.save("bert", tmp_path / "bert")
    words = tiny.write_jsonl(tmp_path / "words.jsonl", [{"text": f"red {i}", "label": "ab"[i % 2]} for i in range(8)])
    turns = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "cat"}]
    chats = tiny.write_jsonl(tmp_path / "chats.jsonl", [{"messages": turns}])
    cases = [
        ("classify", text, str(folder / "classify.jsonl"), "model.no-sounds"),
        ("transcribe", text, str(folder / "transcribe.jsonl"), "model.no-sounds"),
        ("transcribe", models["ast"], str(folder / "transcribe.jsonl"), "model.head"),
        ("classify", models["wav2vec2"], words, "data.no-sound"),
        ("chat", models["wav2vec2"], chats, "model.no-text"),
    ]
    for task, model, data, code in cases:
        findings, _ = luthier.check(task=task, model=model, data=data, method="full")
        assert code in {finding.code for finding in findings if finding.severity == "error"}, (task, code)


@pytest.mark.parametrize(("task", "model"), [("classify", "hubert"), ("transcribe", "wavlm")])
def test_the_code_of_the_card_says_what_the_run_says(
    task: str, model: str, models: dict[str, str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers alone, in the folder of the final model."""
    run = luthier.tune(**recipe((task, model, "full"), models, folder, tmp_path) | {"steps": 2, "eval_every": 2})
    final, sound = run.folder / "final", folder / "sounds/3.wav"
    (code,) = re.findall(r"```python\n(.*?)```", (final / "README.md").read_text(), re.DOTALL)
    assert "luthier" not in code
    code = code.replace("sound.wav", str(sound)).replace('folder = "."', f'folder = "{final}"')
    capsys.readouterr()
    exec(compile(code, "card", "exec"), {})
    said = capsys.readouterr().out.strip().splitlines()[-1:]
    (answer,) = run.predict([str(sound)])
    assert said == [answer["label"]] if task == "classify" else " ".join(said) == answer["text"]
