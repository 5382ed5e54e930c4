"""Adapters in use: in bf16, on an encoder-decoder, exported, averaged, switched; and what a recipe says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_combining import ROWS, Bench, at, plain

import luthier
import tiny
from luthier.cli.adapters import adapters as adapters_verb
from luthier.cli.main import parse
from luthier.recipe import read_recipe
from luthier.runs.finished import adapters
from luthier.runs.finished.switch import Switch, requests
from luthier.runs.rows import read_rows
from luthier.types import Refused


@pytest.fixture(scope="module")
def bench(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("bench"), tiny_folder("bert"))
    for name, seed in (("a", 0), ("b", 1)):
        made.run(name, seed=seed)
    return made


def test_the_average_wants_numbers_that_are_shares(bench: Bench, tmp_path: Path) -> None:
    runs = [at(bench, "a"), at(bench, "b")]
    with pytest.raises(Refused, match=r"adapters\.weights"):
        adapters.average(runs, tmp_path / "to", [float("nan"), 0.5])
    for words in ("0.5,", "half,half"):
        given = parse(["adapters", *runs, "--average", "--weights", words, "--to", str(tmp_path / "to")])
        with pytest.raises(Refused, match=r"adapters\.weights"):
            adapters_verb(given)


def test_an_export_replaces_no_folder_but_its_own(bench: Bench, tmp_path: Path) -> None:
    keys = {key: value for key, value in bench.keys(name="exported", method="lora").items() if key != "adapter"}
    run = luthier.tune(keys)
    kept = tmp_path / "thesis" / "text.md"
    kept.parent.mkdir()
    kept.write_text("all of it")
    for to in (kept.parent, run.folder / "final"):
        with pytest.raises(Refused, match=r"copy\.exists"):
            run.export("merged", to)
    assert kept.read_text() == "all of it"
    assert run.export("merged") == run.export("merged")


def test_switching_knows_runs_by_their_folders_names(bench: Bench) -> None:
    """Names that a module can't have, a dot or a method of its own, are still what a person types."""
    for name in ("keys", "v1.2"):
        bench.run(name)
    switch = Switch([at(bench, "keys"), at(bench, "v1.2")])
    rows = tiny.write_jsonl(bench.folder / "named.jsonl", [{"text": "red", "adapter": "keys"}, {"text": "red"}])
    asked = requests(switch, at(bench, "v1.2"), rows, None)
    assert [answer["label"] for answer in switch.answers(asked)] == [
        luthier.load(at(bench, name)).predict(["red"])[0]["label"] for name in ("keys", "v1.2")
    ]


def test_an_encoder_decoder_switches_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tiny.save("t5", tmp_path / "t5"))
    runs = [bench.run(name, seed=seed) for name, seed in (("a", 0), ("b", 1))]
    found = Switch(runs).answers([(name, "the red cat") for name in "ab"])
    for one, run in zip(found, runs, strict=True):
        (alone,) = luthier.load(run).predict(["the red cat"])
        assert one["probability"] == pytest.approx(alone["probability"], abs=1e-6)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_the_mixing_is_told_of_the_rows_own_tokens(name: str, tmp_path: Path) -> None:
    """A row weighs its adapters alike alone and among longer ones, with virtual tokens before it too."""
    bench = Bench(tmp_path, tiny.save(name, tmp_path / "model"))
    if name == "t5":
        rows = [{"document": f"{row['text']} {'old ' * (i % 5)}", "summary": "red"} for i, row in enumerate(ROWS)]
        bench.data = {"train": tiny.write_jsonl(tmp_path / "documents.jsonl", rows), "eval": 0.25}
    task = {"task": "summarize" if name == "t5" else "classify"}
    runs = [bench.run(member, seed=seed, **task) for member, seed in (("a", 0), ("b", 1))]
    method = [{"prompt": {"num_virtual_tokens": 3}}, {"fusion": runs}]
    found, prepared = luthier.check(plain(bench.keys(**task) | {"method": method, "adapter": None}))
    assert prepared is not None, found
    with torch.no_grad():
        for parameter in prepared.adaptation.parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    weigh, encoded = prepared.adaptation.mixing, prepared.train.rows[:6]
    assert weigh is not None
    together = weigh(prepared.objective.collate(encoded))
    alone = torch.cat([weigh(prepared.objective.collate([row])) for row in encoded])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", [["lora", {"freeze": {"train": ["norms"]}}], "adapter", ["prefix", "prompt"]])
def test_bf16_is_trained_and_opened_again(bench: Bench, method: Any) -> None:
    """A projected prefix is saved as its MLP gives it in fp32, and trained as it gives it in bf16: near, not equal."""
    close = 1e-3 if "prefix" in method else 1e-6
    keys = {key: value for key, value in bench.keys(method=method).items() if key != "adapter"}
    run = luthier.tune(keys | {"precision": "bf16"})
    rows = _held_out(run)
    again = luthier.load(run.folder).predictor.judged(rows)
    assert again["loss"]["value"] == pytest.approx(run.result["after"]["loss"]["value"], rel=close)
    if run.resolved.methods.unmergeable() == []:
        assert run.export("merged")["relative"] < 1e-4


def _held_out(run: Any) -> list[Any]:
    predictor = run.predictor
    return [
        features | {"row": i}
        for i, example in enumerate(read_rows(run.resolved, predictor.task).evaluation)
        for features in predictor.objective.encode(example)
    ]


def test_what_is_said_of_a_method_is_heard(bench: Bench, tmp_path: Path) -> None:
    def read(method: Any, **sections: Any) -> tuple[Any, list[str]]:
        keys = {key: value for key, value in bench.keys(method=method).items() if key != "adapter"}
        findings, prepared = luthier.check(keys | sections)
        return prepared and prepared.resolved, [finding.code for finding in findings]

    assert read([])[1] == ["recipe.method"]
    assert read("dora", lora={"variant": "pissa"})[1] == ["recipe.combination"]
    assert read({"dora": {"variant": "pissa"}})[1] == ["recipe.combination"]
    assert read("dora", lora={"variant": "dora", "rank": 2})[1] == []
    resolved, _ = read({"freeze": {"train": [], "last": 1}})
    assert resolved.origins["freeze.last"] == "given"
    (tmp_path / "again.yaml").write_text(resolved.to_yaml())
    again, _ = read_recipe(tmp_path / "again.yaml")
    assert again is not None
    assert again.methods.options["freeze"].model_dump() == {"train": [], "last": 1}
