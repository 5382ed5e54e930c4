"""Adapters and methods that do not go together are refused before anything is spent, each with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
import tiny
from luthier.methods.combine import Methods
from luthier.runs.finished import adapters
from luthier.runs.finished.switch import Switch, requests
from luthier.types import Refused

ROWS = [{"text": f"{word} {i}", "label": "ab"[i % 2]} for i, word in enumerate(tiny.WORDS * 2)]


class Bench:
    """A folder with rows, and runs of one or two steps in it."""

    def __init__(self, folder: Path, model: str):
        self.folder, self.model = folder, model
        self.data = {"train": tiny.write_jsonl(folder / "rows.jsonl", ROWS), "eval": 0.25}

    def keys(self, **changes: Any) -> dict[str, Any]:
        given = {"task": "classify", "model": self.model, "data": self.data, "steps": 2, "learning_rate": 2e-2}
        return given | {"out": str(self.folder), "method": "adapter", "adapter": {"size": 4}} | changes

    def run(self, name: str, **changes: Any) -> str:
        return str(luthier.tune(self.keys(name=name, **changes)).folder)

    def refused(self, **changes: Any) -> list[Any]:
        with pytest.raises(Refused) as refused:
            luthier.tune(self.keys(**changes))
        return refused.value.findings


@pytest.fixture(scope="module")
def bench(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("bench"), tiny_folder("bert"))
    for name, seed in (("a", 0), ("b", 1)):
        made.run(name, seed=seed)
    return made


def fuse(*runs: str) -> dict[str, Any]:
    return {"method": {"fusion": list(runs)}, "adapter": None}


def plain(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if value is not None}


def without_adapter_section(bench: Bench, **changes: Any) -> list[Any]:
    with pytest.raises(Refused) as refused:
        luthier.tune(plain(bench.keys(**changes)))
    return refused.value.findings


def at(bench: Bench, name: str) -> str:
    return str(bench.folder / name)


def test_fusing_needs_two(bench: Bench) -> None:
    (finding,) = without_adapter_section(bench, **fuse(at(bench, "a")))
    assert finding.code == "recipe.missing-key"


def test_a_missing_run_is_named_with_those_beside_it(bench: Bench) -> None:
    (finding,) = without_adapter_section(bench, **fuse(at(bench, "a"), at(bench, "nope")))
    assert (finding.code, finding.where) == ("run.missing", at(bench, "nope"))
    assert "a" in finding.mend


def test_runs_of_another_kind_are_no_members(bench: Bench) -> None:
    keys = {key: value for key, value in bench.keys(name="lora", method="lora").items() if key != "adapter"}
    lora = str(luthier.tune(keys).folder)
    (finding,) = without_adapter_section(bench, **fuse(at(bench, "a"), lora))
    assert finding.code == "adapter.kind"


def test_another_size_or_other_layers_are_refused(bench: Bench) -> None:
    larger, upper = bench.run("larger", adapter={"size": 8}), bench.run("upper", adapter={"size": 4, "blocks": [1]})
    findings = without_adapter_section(bench, **fuse(at(bench, "a"), larger, upper))
    assert [finding.code for finding in findings] == ["adapter.alike"] * 2
    assert "in size it is 8, and a is 4" in findings[0].what
    assert "in blocks it is (1,), and a is (0, 1)" in findings[1].what


def test_another_base_is_refused(bench: Bench, tmp_path: Path) -> None:
    """The same architecture with other weights: all shapes fit, and every number would be wrong."""
    other = Bench(tmp_path, tiny.save("bert", tmp_path / "other", seed=1))
    run = other.run("other")
    findings = without_adapter_section(bench, **fuse(at(bench, "a"), run))
    assert [finding.code for finding in findings] == ["adapter.base"]
    findings = bench.refused(adapter={"size": 4, "stack": [run]})
    assert [finding.code for finding in findings] == ["adapter.base"]


def test_an_adapter_whose_base_was_replaced_is_not_opened(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tiny.save("bert", tmp_path / "model"))
    run = bench.run("run")
    tiny.save("bert", tmp_path / "model", seed=1)
    with pytest.raises(Refused, match=r"adapter\.base"):
        luthier.load(run).predict(["red"])


def test_blocks_that_are_not_there(bench: Bench) -> None:
    (finding,) = bench.refused(adapter={"blocks": [0, 7]})
    assert finding.code == "method.no-target"
    assert "this model has 2" in finding.what


def test_merging_what_is_not_linear(bench: Bench) -> None:
    with pytest.raises(Refused, match=r"it is not linear.*export.merged"):
        luthier.load(at(bench, "a")).export("merged")


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (["full", "lora"], "trains every number already"),
        (["features", "lora"], "without gradients"),
        (["lora", "ia3"], "same place"),
        (["lora", "lora"], "named twice"),
        (["lora", "dora"], "named twice"),
        (["adapter", {"fusion": ["x", "y"]}], "same place"),
    ],
)
def test_a_combination_that_means_nothing(bench: Bench, method: Any, reason: str) -> None:
    findings, _ = luthier.check({key: v for key, v in bench.keys(method=method).items() if key != "adapter"})
    found = [finding for finding in findings if finding.code == "method.combination"]
    assert any(reason in finding.what for finding in found), findings
    assert all(finding.mend for finding in found)


def test_short_names_open_as_their_method(bench: Bench) -> None:
    def methods(method: Any, **sections: Any) -> Methods:
        keys = {key: value for key, value in bench.keys().items() if key != "adapter"}
        findings, prepared = luthier.check(keys | {"method": method} | sections)
        assert prepared is not None, findings
        return prepared.resolved.methods

    assert methods("dora", lora={"rank": 2}).options["lora"].variant == "dora"  # type: ignore[attr-defined]
    assert methods("houlsby").options["adapter"].kind == "houlsby"  # type: ignore[attr-defined]
    assert methods([{"bitfit": None}, "lora"]).name == "freeze+lora"


def test_the_average_is_exact(bench: Bench) -> None:
    """At every place the new bottleneck gives ¼ of a's change and ¾ of b's; its head is the mean of theirs."""
    adapters.average([at(bench, "a"), at(bench, "b")], at(bench, "mean"), [0.25, 0.75])
    runs = [luthier.load(at(bench, name)) for name in ("a", "b", "mean")]
    x = torch.randn(5, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    layers = [dict(run.predictor.backbone.model.named_modules()) for run in runs]
    places = [name for name in layers[0] if name.endswith(".adapter.default")]
    assert places
    with torch.no_grad():
        for name in places:
            a, b, mean = (one[name](x) for one in layers)
            torch.testing.assert_close(mean, 0.25 * a + 0.75 * b)
    heads = [run.predictor.backbone.model.classifier.weight for run in runs]
    torch.testing.assert_close(heads[2], 0.25 * heads[0] + 0.75 * heads[1])


def test_the_average_of_loras_is_exact(bench: Bench) -> None:
    keys = {key: value for key, value in bench.keys(method="lora").items() if key != "adapter"}
    for name, seed, rank in (("l1", 0, 2), ("l2", 1, 3)):
        luthier.tune(keys | {"name": name, "seed": seed, "lora": {"rank": rank, "alpha": 6}})
    told = adapters.average([at(bench, "l1"), at(bench, "l2")], at(bench, "l-mean"))
    assert all(alike["prompts"] > 2 for alike in told["parity"].values())
    runs = [luthier.load(at(bench, name)) for name in ("l1", "l2", "l-mean")]
    deltas = []
    for run in runs:
        layers = [
            m for m in run.predictor.backbone.model.modules() if type(m).__name__ == "Linear" and hasattr(m, "lora_A")
        ]
        deltas.append([layer.get_delta_weight("default") for layer in layers])
    assert deltas[0]
    for one, two, mean in zip(*deltas, strict=True):
        torch.testing.assert_close(mean, (one + two) / 2, atol=1e-6, rtol=1e-4)


def test_averaging_what_has_other_labels_or_no_shape_in_common(bench: Bench, tmp_path: Path) -> None:
    rows = [{**row, "label": f"{row['label']}!"} for row in ROWS]
    other = bench.run("labels", data={"train": tiny.write_jsonl(tmp_path / "rows.jsonl", rows), "eval": 0.25})
    with pytest.raises(Refused, match=r"adapters\.labels"):
        adapters.average([at(bench, "a"), other], tmp_path / "to")
    with pytest.raises(Refused, match=r"adapters\.weights"):
        adapters.average([at(bench, "a"), at(bench, "b")], tmp_path / "to", [0.5, 0.6])
    with pytest.raises(Refused, match=r"adapters\.few"):
        adapters.stack([at(bench, "a")], tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_stack_made_of_runs_is_the_stack_of_their_adapters(bench: Bench) -> None:
    adapters.stack([at(bench, "a"), at(bench, "b")], at(bench, "stacked"))
    predictor = luthier.load(at(bench, "stacked")).predictor
    assert predictor.backbone.adapters is not None
    assert predictor.backbone.adapters.active == ["a", "b"]
    with predictor.backbone.adapters.using("b"):
        alone = predictor.answers(["the red cat"])
    assert alone == luthier.load(at(bench, "b")).predict(["the red cat"])
    assert predictor.answers(["the red cat"]) != alone


def test_training_on_a_stack_leaves_what_lies_beneath(bench: Bench) -> None:
    run = luthier.load(bench.run("above", adapter={"size": 4, "stack": [at(bench, "a")]}))
    beneath = luthier.load(at(bench, "a")).predictor.backbone.model.state_dict()
    found = run.predictor.backbone.model.state_dict()
    names = [name for name in found if ".adapter.a." in name]
    assert names
    assert all(torch.equal(found[name], beneath[name.replace(".a.", ".default.")]) for name in names)
    assert run.result["trainable"] == luthier.load(at(bench, "a")).result["trainable"]


def test_switching_answers_as_each_run_alone_in_one_batch(bench: Bench) -> None:
    switch = Switch([at(bench, "a"), at(bench, "b")])
    texts = [row["text"] for row in ROWS[:6]]
    given = [(name, text) for text in texts for name in ("a", "b")]
    found = switch.answers(given)
    for name in ("a", "b"):
        alone = luthier.load(at(bench, name)).predict(texts)
        mine = [answer for answer in found if answer["adapter"] == name]
        for one, other in zip(mine, alone, strict=True):
            assert one["label"] == other["label"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)
    with pytest.raises(Refused, match=r"adapter\.unknown"):
        switch.answers([("c", "red")])
    rows = tiny.write_jsonl(bench.folder / "asked.jsonl", [{"text": "red", "adapter": "b"}, {"text": "blue"}])
    assert [name for name, _ in requests(switch, at(bench, "a"), rows, None)] == ["b", "a"]


def test_a_changed_member_makes_it_another_run(bench: Bench) -> None:
    """A fusion's identity holds the members' numbers: trained anew, they are not taken for the old ones."""
    keys = plain(bench.keys(**fuse(at(bench, "a"), at(bench, "b"))))
    _, first = luthier.check(keys)
    assert first is not None
    identity = first.identity
    path = bench.folder / "b" / "final" / "adapter_model.safetensors"
    kept = path.read_bytes()
    try:
        path.write_bytes((bench.folder / "a" / "final" / "adapter_model.safetensors").read_bytes())
        _, second = luthier.check(keys)
        assert second is not None
        assert second.identity != identity
    finally:
        path.write_bytes(kept)


def test_a_fusion_tells_how_it_mixes(bench: Bench) -> None:
    keys = plain(bench.keys(**fuse(at(bench, "a"), at(bench, "b"))))
    run = luthier.tune(keys | {"name": "fused"})
    mixing = run.result["mixing"]
    assert mixing["members"] == ["a", "b"]
    assert len(mixing["layers"]) == tiny.LAYERS
    assert all(sum(layer) == pytest.approx(1, abs=1e-3) for layer in mixing["layers"])
    rows = [json.loads(line) for line in (run.folder / "mixing.jsonl").read_text().splitlines()]
    assert len(rows) == mixing["rows"] == run.result["data"]["eval"]["used"]
    page = run.report.read_text(encoding="utf-8")
    assert "Mixing weights by layer" in page
