"""Broken and hostile inputs on the command line: refused with a finding, no traceback, none of their code run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from luthier.checks import machine
from luthier.cli.main import main

ROWS = [{"text": f"{word} {i}", "label": ["good", "bad"][i % 2]} for i, word in enumerate(tiny.WORDS)]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 90868376\n"


class Bench:
    """A folder with a sound tiny model and rows, to be broken; and the command line run in it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys = folder, capsys
        self.model, self.rows = folder / "model", folder / "rows.jsonl"

    def run(self, *arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        told = self.capsys.readouterr()
        assert "Traceback" not in told.out + told.err
        return int(ended.value.code or 0), told.out

    def check(self, *overrides: str, **keys: Any) -> tuple[int, list[dict[str, Any]]]:
        recipe = {"task": "classify", "model": "./model", "data": "rows.jsonl", "method": "lora", **keys}
        (self.folder / "recipe.yaml").write_text(json.dumps(recipe))
        code, out = self.run("check", "recipe.yaml", *overrides, "--json")
        return code, json.loads(out)["findings"]

    def refused(self, *overrides: str, **keys: Any) -> dict[str, dict[str, Any]]:
        """Findings of a check that fails, by code; ``tune`` fails with them too, and leaves no run."""
        code, findings = self.check(*overrides, **keys)
        assert code == 2
        tuned, out = self.run("tune", "recipe.yaml", *overrides, "--json")
        assert tuned == 2
        assert {f["code"] for f in json.loads(out)["findings"]} == {f["code"] for f in findings}
        assert not (self.folder / "runs").exists()
        assert all(finding["what"] for finding in findings)
        return {finding["code"]: finding for finding in findings if finding["severity"] == "error"}


@pytest.fixture
def bench(
    tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    shutil.copytree(tiny_folder("bert"), tmp_path / "model")
    tiny.write_jsonl(tmp_path / "rows.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, capsys)


def test_the_bench_is_sound(bench: Bench) -> None:
    assert bench.check() == (0, [])


def weights(bench: Bench) -> Path:
    return bench.model / "model.safetensors"


def header_of_garbage(bench: Bench) -> None:
    data = bytearray(weights(bench).read_bytes())
    data[8:40] = b"\xff" * 32
    weights(bench).write_bytes(data)


def giant_header(bench: Bench) -> None:
    weights(bench).write_bytes((2**60).to_bytes(8, "little") + b"{}")


def missing_shard(bench: Bench) -> None:
    tensors = load_file(weights(bench))
    names = sorted(tensors)
    index = {"metadata": {}, "weight_map": {}}
    for shard, part in ((1, names[:5]), (2, names[5:])):
        file = f"model-0000{shard}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, bench.model / file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(part, file)
    (bench.model / "model.safetensors.index.json").write_text(json.dumps(index))
    weights(bench).unlink()
    (bench.model / "model-00002-of-00002.safetensors").unlink()


def shard_outside(bench: Bench) -> None:
    shutil.move(weights(bench), bench.folder / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"bert.pooler.dense.bias": "../outside.safetensors"}}
    (bench.model / "model.safetensors.index.json").write_text(json.dumps(index))


def only_pickled(bench: Bench) -> None:
    pickled = pickle.dumps(Canary(bench.folder / "canary"))
    (bench.model / "pytorch_model.bin").write_bytes(pickled)
    weights(bench).unlink()


def nan_weight(bench: Bench) -> None:
    tensors = load_file(weights(bench))
    tensors[sorted(tensors)[3]].view(-1)[0] = float("nan")
    save_file(tensors, weights(bench), metadata={"format": "pt"})


def adapter_alone(bench: Bench) -> None:
    shutil.rmtree(bench.model)
    bench.model.mkdir()
    (bench.model / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
    save_file({"a": torch.zeros(1)}, bench.model / "adapter_model.safetensors")


def other_tensors(bench: Bench) -> None:
    save_file({"a": torch.zeros(1)}, weights(bench), metadata={"format": "pt"})


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


BROKEN_MODELS: dict[str, tuple[Callable[[Bench], Any], str]] = {
    "a git-lfs pointer": (lambda bench: weights(bench).write_text(POINTER), "model.lfs-pointer"),
    "truncated weights": (lambda bench: os.truncate(weights(bench), 5000), "model.corrupt"),
    "empty weights": (lambda bench: weights(bench).write_bytes(b""), "model.corrupt"),
    "a header of garbage": (header_of_garbage, "model.corrupt"),
    "a header as large as a disk": (giant_header, "model.corrupt"),
    "a missing shard": (missing_shard, "model.incomplete"),
    "a shard outside the folder": (shard_outside, "model.incomplete"),
    "an index of garbage": (lambda b: (b.model / "model.safetensors.index.json").write_text("{"), "model.corrupt"),
    "only pickled weights": (only_pickled, "model.incomplete"),
    "no weights": (lambda bench: weights(bench).unlink(), "model.incomplete"),
    "weights of nothing here": (other_tensors, "model.mismatch"),
    "no config": (lambda bench: (bench.model / "config.json").unlink(), "model.incomplete"),
    "a config of garbage": (lambda bench: (bench.model / "config.json").write_text("{"), "model.unreadable"),
    "a config of no model": (lambda bench: (bench.model / "config.json").write_text("{}"), "model.unreadable"),
    "a tokenizer of garbage": (lambda b: (b.model / "tokenizer.json").write_text("{"), "model.unreadable"),
    "no tokenizer": (lambda b: [(b.model / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")],
                     "model.tokenizer"),
    "a NaN among the weights": (nan_weight, "model.not-finite"),
    "an adapter without its model": (adapter_alone, "model.incomplete"),
    "an empty folder": (lambda bench: [shutil.rmtree(bench.model), bench.model.mkdir()], "model.incomplete"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN_MODELS)
def test_a_broken_model_is_refused(broken: str, bench: Bench) -> None:
    break_it, code = BROKEN_MODELS[broken]
    break_it(bench)
    found = bench.refused()
    assert code in found
    assert found[code]["mend"]
    assert not (bench.folder / "canary").exists()


def test_ids_beyond_the_embedding_name_the_row(bench: Bench) -> None:
    """A tokenizer with more tokens than the model has embeddings: the rows that use them are named."""
    tokenizer = tiny.tokenizer(encoder=True)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(bench.model)
    tiny.write_jsonl(bench.rows, [*ROWS, {"text": "a zebra", "label": "good"}])
    found = bench.refused()
    assert found["model.vocabulary"]["where"] == f"rows.jsonl:{len(ROWS) + 1}"
    assert "zebra" in found["model.vocabulary"]["what"]


@pytest.mark.parametrize("verb", ["check", "tune"])
def test_code_beside_a_model_is_never_run(verb: str, bench: Bench) -> None:
    """`auto_map` in config and tokenizer names a module of the folder; were it imported, it would leave a file."""
    canary = bench.folder / "canary"
    code = f"open({str(canary)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\nclass Tok: pass\n"
    for name in ("config.json", "tokenizer_config.json"):
        path = bench.model / name
        auto_map = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model",
                    "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tok", "evil.Tok"]}  # fmt: skip
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": auto_map}))
    (bench.model / "evil.py").write_text(code)
    bench.check()
    bench.run(verb, "recipe.yaml", "steps=1")
    config = json.loads((bench.model / "config.json").read_text())
    (bench.model / "config.json").write_text(json.dumps({**config, "model_type": "evil"}))
    assert "model.unreadable" in {finding["code"] for finding in bench.check()[1]}
    assert not canary.exists()


BROKEN_ROWS: dict[str, tuple[str, str]] = {
    "an empty file": ("", "data.empty"),
    "only blank lines": ("\n\n\n", "data.empty"),
    "a git-lfs pointer": (POINTER, "data.lfs-pointer"),
    "all rows bad": ('{"text": \n' * 5, "data.malformed"),
    "one class": ('{"text": "red", "label": "a"}\n{"text": "blue", "label": "a"}\n', "data.single-class"),
    "no label": ('{"text": "red"}\n{"text": "blue"}\n', "task.format"),
    "rows that are no objects": ("[1, 2]\n3\n", "data.malformed"),
    "columns that no format has": ('{"a": 1, "b": 2}\n', "data.unknown-format"),
    "deep nesting": ('{"text": ' + "[" * 100_000 + "\n", "data.malformed"),
    "a label that is an object": ('{"text": "red", "label": {"a": 1}}\n{"text": "cat", "label": "b"}\n', "data.type"),
}


@pytest.mark.parametrize("broken", BROKEN_ROWS)
def test_broken_rows_are_refused(broken: str, bench: Bench) -> None:
    text, code = BROKEN_ROWS[broken]
    bench.rows.write_text(text)
    found = bench.refused()
    assert code in found
    assert found[code]["where"].startswith(("rows.jsonl", "data"))


def test_bytes_that_are_no_text_are_refused(bench: Bench) -> None:
    bench.rows.write_bytes(b'{"text": "\xff\xfe", "label": "good"}\n\x00\x01\x02\n')
    found = bench.refused()
    assert any(code.startswith("data.") for code in found)


def with_bad_rows(bench: Bench, count: int) -> None:
    text = bench.rows.read_text()
    bench.rows.write_text("".join(f'{{"text": "torn {i}\n' for i in range(count)) + text)


def test_bad_rows_are_skipped_when_asked_and_counted(bench: Bench) -> None:
    """Rows read = rows used + rows skipped by reason; each skipped row is a warning with its line."""
    with_bad_rows(bench, 3)
    assert bench.refused()["data.malformed"]["where"].startswith("rows.jsonl:")
    recipe = {"task": "classify", "model": "./model", "data": {"train": "rows.jsonl", "on_bad_row": "skip"},
              "method": "lora", "steps": 1, "name": "run"}  # fmt: skip
    (bench.folder / "recipe.yaml").write_text(json.dumps(recipe))
    code, out = bench.run("check", "recipe.yaml", "--json")
    told = json.loads(out)
    assert code == 0
    assert [f["severity"] for f in told["findings"] if f["code"] == "data.malformed"] == ["warning"] * 3
    train = told["data"]["train"]
    assert (train["read"], train["used"], train["skipped"]) == (len(ROWS) + 3, len(ROWS), {"bad row": 3})
    code, out = bench.run("tune", "recipe.yaml", "--json")
    assert code == 0
    assert json.loads(out)["result"]["data"]["train"]["skipped"] == {"bad row": 3}


def test_skipping_is_capped(bench: Bench) -> None:
    with_bad_rows(bench, 4)
    data = {"train": "rows.jsonl", "on_bad_row": "skip", "max_bad_rows": 3}
    assert "4 bad rows are more than" in bench.refused(data=data)["data.too-many-bad"]["what"]


def test_a_full_disk_is_told_before_the_first_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(bench.folder)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    found = bench.refused()["machine.disk"]
    assert found["where"] == "out"
    assert "0 MB" in found["what"]


RECIPES = {
    "python objects": "task: classify\nmodel: !!python/object/apply:os.mkdir [canary]\ndata: rows.jsonl\n",
    "python names": "task: !!python/name:os.system classify\nmodel: ./model\ndata: rows.jsonl\n",
    "no mapping": "- task\n- model\n",
    "a word": "classify",
    "nothing": "",
    "no YAML": "task: [classify\nmodel: }\n",
    "a tab": "task: classify\n\tmodel: x\n",
    "deep nesting": "task: " + "[" * 20_000 + "\n",
    "a value inside itself": "task: &a [*a]\n",
}


@pytest.mark.parametrize("broken", RECIPES)
def test_a_broken_recipe_is_refused_and_runs_no_code(broken: str, bench: Bench) -> None:
    (bench.folder / "recipe.yaml").write_text(RECIPES[broken])
    code, out = bench.run("check", "recipe.yaml", "--json")
    assert code == 2
    [finding] = json.loads(out)["findings"]
    assert finding["code"] == "recipe.yaml"
    assert "recipe.yaml" in finding["where"]
    assert not (bench.folder / "canary").exists()


def test_a_recipe_of_bytes_or_of_a_folder_is_refused(bench: Bench) -> None:
    (bench.folder / "recipe.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert bench.run("check", "recipe.yaml")[0] == 2
    assert bench.run("check", "model")[0] == 2
    assert bench.run("check", "recipe.yml")[0] == 2


def test_a_recipe_that_grows_when_it_is_read_is_refused_soon(bench: Bench) -> None:
    """Nine anchors, each of nine of the one before: 9^9 words if they were written out."""
    lines = ['a0: &a0 "x"'] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (bench.folder / "recipe.yaml").write_text("\n".join(lines) + "\ntask: *a9\n")
    code, out = bench.run("check", "recipe.yaml")
    assert code == 2
    assert "anchors stand for more than" in out


def finished(bench: Bench) -> Path:
    recipe = {"task": "classify", "model": "./model", "data": "rows.jsonl", "method": "lora", "steps": 1, "name": "run"}
    (bench.folder / "recipe.yaml").write_text(json.dumps(recipe))
    assert bench.run("tune", "recipe.yaml", "--json")[0] == 0
    return bench.folder / "runs" / "run"


def weights_of(run: Path) -> Path:
    return run.parents[1] / "model" / "model.safetensors"


def other_weights(path: Path) -> None:
    """The same names and shapes, other numbers."""
    save_file({name: tensor.flip(0) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


RUNS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no run": (shutil.rmtree, "run.missing"),
    "not finished": (lambda run: shutil.rmtree(run / "final"), "run.unfinished"),
    "a torn run.json": (lambda run: (run / "run.json").write_text('{"status": '), "run.corrupt"),
    "a torn adapter": (lambda run: os.truncate(run / "final" / "adapter_model.safetensors", 500), "model.corrupt"),
    "no adapter": (lambda run: (run / "final" / "adapter_model.safetensors").unlink(), "model.incomplete"),
    "a torn config": (lambda run: (run / "final" / "config.json").write_text("{"), "model.unreadable"),
    "a base model that is gone": (lambda run: shutil.rmtree(run.parents[1] / "model"), "model.missing"),
    "another base model": (lambda run: other_weights(weights_of(run)), "adapter.base"),
    "a base model cut short": (lambda run: os.truncate(weights_of(run), 9), "model.corrupt"),
}


@pytest.mark.parametrize("broken", RUNS)
def test_a_broken_run_folder_is_refused(broken: str, bench: Bench) -> None:
    break_it, expected = RUNS[broken]
    break_it(finished(bench))
    code, out = bench.run("predict", "runs/run", "old tree", "--json")
    assert code == 2
    assert expected in {finding["code"] for finding in json.loads(out)["findings"]}


def test_a_torn_run_json_is_told_by_every_verb_and_hides_no_other_run(bench: Bench) -> None:
    run = finished(bench)
    assert bench.run("tune", "recipe.yaml", "name=other", "--json")[0] == 0
    (run / "run.json").write_text("{")
    code, out = bench.run("tune", "recipe.yaml", "--json")
    assert code == 2
    assert [finding["code"] for finding in json.loads(out)["findings"]] == ["run.corrupt"]
    code, out = bench.run("ls", "runs", "--json")
    assert code == 0
    assert [(entry["name"], entry["status"]) for entry in json.loads(out)["runs"]] == [
        ("runs/other", "finished"),
        ("runs/run", "damaged"),
    ]


def test_an_adapter_config_names_no_code(bench: Bench) -> None:
    """Fields by which a library would import a module, or take remote code, leave no file."""
    run, canary = finished(bench), bench.folder / "canary"
    (bench.folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    path = run / "final" / "adapter_config.json"
    hostile = {"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}, "megatron_core": "evil",
               "tokenizer_kwargs": {"trust_remote" + "_code": True}}  # fmt: skip
    path.write_text(json.dumps({**json.loads(path.read_text()), **hostile}))
    bench.run("predict", "runs/run", "old tree")
    assert not canary.exists()


def test_the_folder_of_another_recipe_is_left_alone(bench: Bench) -> None:
    run = finished(bench)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert bench.run("tune", "recipe.yaml", "learning_rate=1e-5")[0] == 0
    tiny.write_jsonl(bench.rows, ROWS[2:])
    assert bench.run("tune", "recipe.yaml")[0] == 0
    assert {path.name for path in run.parent.iterdir() if path.is_dir()} >= {"run", "run-2", "run-3"}
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_that_another_process_holds_is_refused(bench: Bench) -> None:
    from luthier.engine.checkpoint import lock

    (bench.folder / "recipe.yaml").write_text(
        json.dumps({"task": "classify", "model": "./model", "data": "rows.jsonl", "name": "run", "steps": 1})
    )
    with lock(bench.folder / "runs" / "run"):
        code, out = bench.run("tune", "recipe.yaml", "--json")
    assert code == 2
    assert [finding["code"] for finding in json.loads(out)["findings"]] == ["run.locked"]
