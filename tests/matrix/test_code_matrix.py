"""Methods × ways of laying out a row of code: each learns to write functions, and opens the same.

Where every weight trains most functions pass their tests; a small part of a random model's learns to write less well.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toys
import transformers

import luthier
import tiny
from luthier.sandbox import unavailable

METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "learning_rate": 1e-2},
    "lora": {"method": {"lora": {"rank": 8}}, "learning_rate": 3e-2},
    "adapter": {"method": {"adapter": {"size": 8}}, "learning_rate": 3e-2},
    "prefix": {"method": {"prefix": {"num_virtual_tokens": 6}}, "learning_rate": 1e-1},
}
LAYOUTS = ("conversation", "text", "source and target")
QUICK = {("conversation", "lora"), ("text", "full"), ("source and target", "full")}
CELLS = [
    pytest.param(layout, method, marks=[] if (layout, method) in QUICK else pytest.mark.slow)
    for layout in LAYOUTS
    for method in METHODS
]


def problems(count: int, seed: int) -> list[dict[str, Any]]:
    """A function named in its docstring's colour: it returns that colour."""
    rows = []
    for row in toys.rows("single", count, seed):
        colour = row["label"]
        prompt, test = f'def f():\n    """{row["text"]}"""\n', f"assert f() == '{colour}'"
        rows.append({"prompt": prompt, "entry_point": "f", "canonical_solution": f"    return '{colour}'\n",
                     "test": test})  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def model_of(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    def find(layout: str) -> str:
        if layout == "source and target":
            return tiny_folder("t5")
        if layout == "conversation":
            return tiny_folder("llama")
        folder = tmp_path_factory.mktemp("plain")  # a decoder that was never taught to talk
        tiny.save("llama", folder)
        tokenizer = tiny.tokenizer(encoder=False)
        tokenizer.chat_template = None
        for left in folder.glob("chat_template*"):
            left.unlink()
        tokenizer.save_pretrained(folder)
        return str(folder)

    return find


@pytest.mark.parametrize(("layout", "method"), CELLS)
def test_it_learns_to_write(layout: str, method: str, model_of: Callable[[str], str], tmp_path: Path) -> None:
    if unavailable():
        pytest.skip(unavailable())
    both = problems(40, seed=0)
    data = {"train": tiny.write_jsonl(tmp_path / "train.jsonl", both[4:]),
            "eval": tiny.write_jsonl(tmp_path / "eval.jsonl", both[:4])}  # fmt: skip
    run = luthier.tune(
        task="code", model=model_of(layout), data=data, out=str(tmp_path / "runs"), batch_size=36, final="last",
        steps=150 if method == "full" else 40, eval_every=150, code={"run_tests": True, "max_new_tokens": 48},
        **METHODS[method],
    )  # fmt: skip
    after, before = run.result["after"], run.result["before"]
    assert after["loss"]["value"] < before["loss"]["value"] * 2 / 3
    if method == "full":
        assert after["pass@1"]["value"] >= 0.5, after
        assert after["tests: passed"]["value"] == after["pass@1"]["value"] <= after["valid_python"]["value"]

    again = luthier.load(run.folder)
    asked = [row["prompt"] for row in both[:4]]
    told = [answer["text"] for answer in run.predict([{"prompt": one} for one in asked])]
    assert told == [answer["text"] for answer in again.predict([{"prompt": one} for one in asked])]
    judged = again.evaluate(str(tmp_path / "eval.jsonl"))["metrics"]
    assert judged["pass@1"] == after["pass@1"]


def test_tests_are_run_only_when_asked(model_of: Callable[[str], str], tmp_path: Path) -> None:
    """And that they are not is said; a run that was not asked may be, when it is evaluated."""
    rows = tiny.write_jsonl(tmp_path / "rows.jsonl", problems(8, seed=1))
    recipe: dict[str, Any] = {
        "task": "code", "model": model_of("text"), "data": {"train": rows, "eval": 0.5}, "method": "lora", "steps": 1,
        "out": str(tmp_path / "runs"), "code": {"max_new_tokens": 8},
    }  # fmt: skip
    findings, _ = luthier.check(recipe)
    assert "task.tests-not-run" in {finding.code for finding in findings}
    run = luthier.tune(recipe)
    assert not [name for name in run.result["after"] if name.startswith(("pass@", "tests:"))]
    if not unavailable():
        told = luthier.load(run.folder, ["code.run_tests=true"]).evaluate(rows)
        assert told["metrics"]["pass@1"]["value"] == 0.0
        assert told["metrics"]["pass@1"]["n"] == 8


def test_tests_without_tests_are_refused(model_of: Callable[[str], str], tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "test"} for row in problems(8, seed=1)]
    data = {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", rows), "eval": 0.5}
    findings, _ = luthier.check(task="code", model=model_of("text"), data=data, code={"run_tests": True})
    assert ("recipe.combination", "code.run_tests") in {(found.code, found.where) for found in findings}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"samples": 2}, "temperature 0"),
        ({"pass_at": [1, 3], "samples": 2, "temperature": 0.8}, "pass@3"),
        ({"pass_at": [0]}, "at least 1"),
    ],
)
def test_samples_that_tell_nothing_are_refused(
    given: dict[str, Any], said: str, model_of: Callable[[str], str], tmp_path: Path
) -> None:
    rows = tiny.write_jsonl(tmp_path / "rows.jsonl", problems(4, seed=1))
    findings, _ = luthier.check(task="code", model=model_of("text"), data=rows, code=given)
    assert any(said in found.what for found in findings if found.severity == "error")


def test_descriptions_are_learned_too(model_of: Callable[[str], str], tmp_path: Path) -> None:
    """An instruction and its answer, under a chat template and without one: all of the code is supervised."""
    row = {"instruction": "Return red.", "input": "old", "output": "def f():\n    return 'red'\n"}
    for layout in LAYOUTS:
        data = tiny.write_jsonl(tmp_path / "rows.jsonl", [row])
        _, prepared = luthier.check(task="code", model=model_of(layout), data=data, method="full")
        (features,) = prepared.train.rows
        tokenizer = prepared.backbone.tokenizer
        if layout == "source and target":
            taught, given = features["target_ids"], tokenizer.decode(features["input_ids"])
        else:
            pairs = list(zip(features["input_ids"], features["supervised"], strict=True))
            taught, given = [one for one, yes in pairs if yes], tokenizer.decode([one for one, yes in pairs if not yes])
        assert tokenizer.decode(taught, skip_special_tokens=True) == row["output"].rstrip()
        assert "Return red.\n\nold" in given
        assert taught[-1] in prepared.task.terminators(prepared.backbone)


def test_real_rows(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """GPTeacher's instructions train, HumanEval's problems are asked, on real weights; and the text is as it was."""
    model = str(shared("models/stories260k-fp32"))
    data = {}
    for side, name in (("train", "gpteacher_codegen/codegen"), ("eval", "humaneval/humaneval")):
        with gzip.open(shared(f"data/{name}.jsonl.gz"), "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in list(file)[:80]]
        data[side] = tiny.write_jsonl(tmp_path / f"{side}.jsonl", rows)
    findings, prepared = luthier.check(
        task="code", model=model, data={**data, "on_bad_row": "skip"}, method="lora", max_length=512
    )
    assert [found for found in findings if found.severity == "error"] == []
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model)
    for encoded in (prepared.train, prepared.evaluation):
        for features in encoded.rows[::8]:
            example = encoded.examples[features["row"]]
            text = tokenizer.decode(features["input_ids"], skip_special_tokens=True)
            assert prepared.task.source(example) in text
            assert text.endswith(prepared.task.references(example)[0].rstrip())


def test_a_problem_is_asked_as_it_is_taught(model_of: Callable[[str], str], tmp_path: Path) -> None:
    """A typed row with an entry point, and turns of the assistant's that stand before the answer."""
    (row,) = problems(1, seed=2)
    _, prepared = luthier.check(
        task="code", model=model_of("conversation"), data=tiny.write_jsonl(tmp_path / "a.jsonl", [row]), method="full"
    )
    task, backbone = prepared.task, prepared.backbone
    ids = task.row(backbone, task.parse({"prompt": row["prompt"], "entry_point": "f"}), None, 128)["input_ids"]
    (taught,) = prepared.train.rows
    assert taught["input_ids"][: len(ids)] == ids
    assert taught["supervised"].index(True) == len(ids)

    turns = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "cat"},
             {"role": "user", "content": "blue"}]  # fmt: skip
    several = tiny.write_jsonl(tmp_path / "b.jsonl", [{"prompt": turns, "completion": "dog"}])
    _, prepared = luthier.check(task="code", model=model_of("conversation"), data=several, method="full")
    (taught,) = prepared.train.rows
    pairs = list(zip(taught["input_ids"], taught["supervised"], strict=True))
    tokenizer = prepared.backbone.tokenizer
    assert "cat" in tokenizer.decode([one for one, yes in pairs if not yes])
    assert tokenizer.decode([one for one, yes in pairs if yes], skip_special_tokens=True) == "dog"
