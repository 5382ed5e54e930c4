"""A plan without weights against the real model: what trains, how rows are laid out, and what autograd keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kept import kept

import luthier
import tiny
from luthier.models import sketch
from luthier.models.backbone import Backbone
from luthier.plan.memory import weigh
from luthier.plan.plan import _here, _prepare
from luthier.plan.trace import Trace
from luthier.recipe import read_recipe
from luthier.runs.prepare import prepare
from luthier.runs.prepared import Prepared

CLASSIFY = [{"text": f"{word} {'cat ' * (i % 5)}", "label": "ab"[i % 2]} for i, word in enumerate(tiny.WORDS)]
CHAT = [{"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": "red " * (1 + i % 4)}]}
        for i, word in enumerate(tiny.WORDS)]  # fmt: skip
METHODS: dict[str, Any] = {
    "full": "full",
    "lora": {"lora": {"rank": 4}},
    "dora": {"lora": {"variant": "dora"}},
    "norms": {"freeze": {"train": ["norms", "head"]}},
    "last": {"freeze": {"last": 1}},
}


@pytest.fixture
def pair(tiny_folder: Callable[..., str], tmp_path: Path) -> Callable[..., tuple[Prepared, Prepared, Trace]]:
    """(real, planned, trace) of the same recipe."""

    def both(model: str, task: str, **changes: Any) -> tuple[Prepared, Prepared, Trace]:
        data = tiny.write_jsonl(tmp_path / f"{task}.jsonl", CLASSIFY if task == "classify" else CHAT)
        given = {"task": task, "model": tiny_folder(model), "data": {"train": data, "eval": 0.0}, "out": str(tmp_path)}
        given |= {"steps": 1, "batch_size": 8, "precision": "fp32", "matmul": "default", **changes}
        trace = Trace()
        resolved, again = (read_recipe(given)[0] for _ in range(2))
        assert resolved is not None
        assert again is not None
        return prepare(resolved, torch.device("cpu")), _prepare(again, _here(), trace, []), trace

    return both


@pytest.fixture
def members(tiny_folder: Callable[..., str], tmp_path: Path) -> list[str]:
    """Two runs of ``method: adapter`` on the tiny BERT."""
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", CLASSIFY)
    common = {"task": "classify", "model": tiny_folder("bert"), "data": {"train": data, "eval": 0.0}, "steps": 1}
    return [
        str(luthier.tune(**common, method="adapter", adapter={"size": 4}, out=str(tmp_path / name)).folder)
        for name in "ab"
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("model", "task"), [("bert", "classify"), ("roberta", "classify"), ("llama-tied", "chat")])
def test_the_same_numbers_train(pair: Callable[..., Any], model: str, task: str, method: str) -> None:
    real, planned, _ = pair(model, task, method=METHODS[method])
    assert {name: p.shape for name, p in planned.adaptation.parameters.items()} == {
        name: p.shape for name, p in real.adaptation.parameters.items()
    }


@pytest.mark.parametrize("method", ["fusion", "stack", "start"])
def test_what_builds_on_other_runs_is_planned_too(pair: Callable[..., Any], members: list[str], method: str) -> None:
    chosen = {"fusion": members} if method == "fusion" else {"adapter": {"size": 4, method: members[:1]}}
    real, planned, trace = pair("bert", "classify", method=chosen)
    assert {name: p.shape for name, p in planned.adaptation.parameters.items()} == {
        name: p.shape for name, p in real.adaptation.parameters.items()
    }
    assert weigh(planned, trace).trainable == sum(p.numel() for p in real.adaptation.parameters.values())


@pytest.mark.parametrize("needs", ["sequence_logits", "token_logits"])
@pytest.mark.parametrize("name", [*tiny.ENCODERS, *tiny.DECODERS])
def test_a_miniature_has_the_habits_of_the_model(opened: Callable[..., Backbone], name: str, needs: str) -> None:
    if needs == "token_logits" and name in tiny.ENCODERS:
        pytest.skip("an encoder writes nothing")
    real = opened(name, needs)
    trace = Trace()
    config = {"num_labels": 3} if needs == "sequence_logits" else {}
    with sketch.sketching(trace.fake):
        planned = sketch.load(name, real.path, needs, fake=trace.fake, config=config)
        planned.choose_layout("auto")
    assert planned.assumed == []
    assert (planned.layout, planned.position_offset) == (real.layout, real.position_offset)
    assert planned.causal == real.causal
    assert planned.fresh == real.fresh
    if needs == "sequence_logits":
        assert planned.reads == real.reads


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize(
    ("model", "task", "method"),
    [("bert", "classify", "full"), ("bert", "classify", "lora"), ("llama", "chat", "full"), ("qwen3", "chat", "lora"),
     ("gpt2", "chat", "full"), ("modernbert", "classify", "full")],
)  # fmt: skip
def test_activations_are_what_autograd_keeps(
    pair: Callable[..., Any], model: str, task: str, method: str, packing: str
) -> None:
    """Alive at the end of the forward pass and no weight: the saved storages, and a few small ones."""
    real, planned, trace = pair(model, task, method=method, packing=packing)
    assert planned.backbone.layout == real.backbone.layout
    weigh(planned, trace)
    held = {"activations": 0, "logits": 0}
    most = 0
    for number, size in trace.events:
        if trace.part[number] in held:
            held[trace.part[number]] += size
            if trace.part[number] == "activations":
                most = max(most, held["activations"])
    logits = max(size for number, size in trace.events if trace.part[number] == "logits") if task == "chat" else 0
    assert most + logits == pytest.approx(kept(real), rel=0.05)
