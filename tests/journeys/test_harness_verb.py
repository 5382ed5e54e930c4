"""`luthier evaluate RUN --lm-eval`: refused in words where lm-evaluation-harness is missing; where it is installed,
tasks of one's own on local rows, and the same numbers as the harness's own model on the merged weights.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typed import session

import luthier
import tiny
from forks import forks

there = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval (an extra), which is not here")
FEW = [f"the {word} and" for word in tiny.WORDS]
QUESTIONS = [
    {"question": asked, "choices": ["red house", "blue cat", "old tree"], "gold": at % 3, "text": f"{asked} the river"}
    for at, asked in enumerate(FEW)
]
TASKS = {
    "toy_choice": "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
    "doc_to_target: gold\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n",
    "toy_text": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    "metric_list: [{metric: bits_per_byte}]\n",
    "toy_write": "output_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{choices[gold]}}'\n"
    "generation_kwargs: {until: [house], max_gen_toks: 12, do_sample: false}\nmetric_list: [{metric: exact_match}]\n",
}


def tuned(folder: Path, model: str, **settings: Any) -> luthier.Run:
    turns = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": f"{word} house"}]
        for asked, word in zip(FEW, tiny.WORDS, strict=True)
    ]
    tiny.write_jsonl(folder / "chats.jsonl", [{"messages": one} for one in turns])
    data = {"train": str(folder / "chats.jsonl"), "eval": 0}
    return luthier.tune(
        task="chat", model=model, data=data, method="lora", steps=20, learning_rate=0.01, max_length=64,
        out=str(folder / "runs"), name="asked", **settings,
    )  # fmt: skip


def tasks(folder: Path) -> None:
    tiny.write_jsonl(folder / "rows.jsonl", QUESTIONS)
    (folder / "tasks").mkdir()
    rows = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\ntest_split: test\n"
    for name, text in TASKS.items():
        (folder / "tasks" / f"{name}.yaml").write_text(f"task: {name}\n{rows}{text}", encoding="utf-8")


def requests(*asked: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=one) for one in asked]


def test_without_the_harness_the_extra_is_named(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """In a process where it can't be found, whether it is installed or not."""
    tuned(tmp_path, tiny_folder("llama"))
    code = "import importlib.util as u; find = u.find_spec\n"
    code += "u.find_spec = lambda name, *a: None if name == 'lm_eval' else find(name, *a)\n"
    code += "from luthier.cli.main import main; main(['evaluate', 'runs/asked', '--lm-eval', 'arc_easy'])"
    done = forks().run(code, folder=tmp_path)
    told = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2, told
    assert "evaluate.lm-eval" in told
    assert 'pip install "luthier[lm-eval]"' in told


def test_what_is_measured_is_asked_for_once(tmp_path: Path) -> None:
    words = ("", "--data a.jsonl --lm-eval arc_easy", "--data a.jsonl --limit 5")
    neither, both, unread = session(tmp_path, *(f"evaluate runs/asked {one}" for one in words))
    assert (neither.code, both.code, unread.code) == (2, 2, 2)
    assert "--limit: this is read with `--lm-eval` alone" in " ".join(unread.out.split())


@there
def test_tasks_of_ones_own_on_local_rows(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    tuned(tmp_path, tiny_folder("llama"))
    tasks(tmp_path)
    names = " ".join(TASKS)
    plain, turns, unknown = session(
        tmp_path,
        f"evaluate runs/asked --lm-eval {names} --include-path tasks --json",
        "evaluate runs/asked --lm-eval toy_write --include-path tasks --chat-template --fewshot 1 --limit 5 --json",
        "evaluate runs/asked --lm-eval toy_chioce --include-path tasks",
    )
    assert plain.code == 0, plain.err
    found = plain.json["tasks"]
    assert {name: told["rows"] for name, told in found.items()} == dict.fromkeys(TASKS, len(QUESTIONS))
    assert {"acc", "acc_norm"} <= found["toy_choice"]["metrics"].keys()
    assert found["toy_text"]["metrics"]["bits_per_byte"]["value"] > 0
    assert turns.code == 0, turns.err
    assert (turns.json["chat_template"], turns.json["tasks"]["toy_write"]["rows"]) == (True, 5)
    assert unknown.code == 2
    assert "did you mean toy_choice" in " ".join(unknown.out.split())


@there
@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_the_numbers_are_those_of_the_harness_own_model(
    model: str, tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    """The run live, with its LoRA, against HFLM on the merged export. That knows no end of a turn but the end of
    text, so ours are taken out: a chat's answers end at theirs."""
    from lm_eval.models.huggingface import HFLM

    from luthier.runs.finished.harness_model import RunModel

    run = tuned(tmp_path, tiny_folder(model))
    run.export("merged", tmp_path / "merged")
    ours, theirs = RunModel(run), HFLM(pretrained=str(tmp_path / "merged"), device="cpu", dtype="float32")
    assert ours.texts.stop
    ours.texts.stop = ()
    pairs = requests(*((row["question"], f" {choice}") for row in QUESTIONS for choice in row["choices"]), ("", "cat"))
    for ours_one, theirs_one in zip(ours.loglikelihood(pairs), theirs.loglikelihood(pairs), strict=True):
        assert ours_one[0] == pytest.approx(theirs_one[0], rel=1e-4)
        assert ours_one[1] == theirs_one[1]
    texts = requests(*((row["text"],) for row in QUESTIONS), (" ".join(FEW),))
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), rel=1e-4)
    wanted = {"until": ["house", "\n"], "max_gen_toks": 12, "do_sample": False}
    asked = requests(*((row["question"], wanted) for row in QUESTIONS))
    assert ours.generate_until(asked) == theirs.generate_until(asked)


@there
def test_turns_are_written_as_they_were_taught(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    from luthier.runs.finished.harness_model import RunModel

    model = RunModel(tuned(tmp_path, tiny_folder("llama"), chat={"system": "be old"}))
    asked = [{"role": "user", "content": "the cat"}]
    shown = "<|im_start|>system\nbe old<|im_end|>\n<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    assert model.apply_chat_template(asked) == shown
    begun = [*asked, {"role": "assistant", "content": "red"}]
    assert model.apply_chat_template(begun, add_generation_prompt=False) == f"{shown}red"


@there
def test_what_can_not_be_asked_is_refused(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """A run that sorts texts; a way of writing that we have no word for."""
    from luthier.runs.finished.harness_model import RunModel, settings_of

    tiny.write_jsonl(tmp_path / "rows.jsonl", [{"text": word, "label": at % 2} for at, word in enumerate(tiny.WORDS)])
    run = luthier.tune(
        task="classify", model=tiny_folder("bert"), data={"train": str(tmp_path / "rows.jsonl"), "eval": 0}, steps=1,
        method="lora", out=str(tmp_path / "runs"),
    )  # fmt: skip
    with pytest.raises(luthier.Refused, match=r"evaluate\.task"):
        RunModel(run)
    with pytest.raises(luthier.Refused, match="top_p"):
        settings_of({"do_sample": True, "temperature": 0.7, "top_p": 0.9})
    settings = settings_of({"until": "\n\n", "do_sample": False, "temperature": 0.7, "top_p": 0.9, "max_tokens": 5})
    assert settings == {"until": ["\n\n"], "max_new_tokens": 5, "temperature": 0.0}
