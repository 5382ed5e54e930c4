"""Memory of a two-layer Llama, reckoned by hand, and the allocator's and the devices' small rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import tiny
from luthier.plan.devices import CONTEXT, named
from luthier.plan.footprint import summed
from luthier.plan.heap import Heap
from luthier.plan.memory import weigh
from luthier.plan.plan import _here, _prepare, estimate
from luthier.plan.trace import Trace
from luthier.recipe import read_recipe
from luthier.types import Refused

WORDS = 6


@pytest.fixture
def recipe(tiny_folder: Callable[..., str], tmp_path: Any) -> Callable[..., Any]:
    def one(model: str = "llama-tied", **changes: Any) -> Any:
        rows = [{"messages": [{"role": "user", "content": "red cat"}, {"role": "assistant", "content": f"{word} dog"}]}
                for word in tiny.WORDS]  # fmt: skip
        data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
        given = {
            "task": "chat",
            "model": tiny_folder(model),
            "data": {"train": data, "eval": 0.0},
            "out": str(tmp_path),
        }
        resolved, findings = read_recipe({**given, "steps": 2, "batch_size": 4, **changes})
        assert resolved is not None, findings
        return resolved

    return one


def numbers(vocabulary: int) -> int:
    """Width 32, 2 layers, 2 heads of 16, 1 key-value head, 48 in the feed-forward; input and output embedding are one.

    A layer: q 32·32, k and v 32·16 each, o 32·32; gate, up and down 3·32·48; two norms of 32.
        1024 + 512 + 512 + 1024 + 4608 + 64 = 7744
    The model: 2·7744 and the last norm 32 and the embedding 32·V.
    """
    return 2 * 7744 + 32 + 32 * vocabulary


def test_weights_gradients_and_optimizer_of_full_fine_tuning(recipe: Callable[..., Any]) -> None:
    """fp32: 4 bytes a weight; a gradient beside each at the worst moment; two moments of AdamW."""
    trace = Trace()
    prepared = _prepare(recipe(method="full"), _here(), trace, [])
    expected = numbers(len(tiny.tokenizer(encoder=False)))
    found = weigh(prepared, trace)
    assert found.trainable == expected
    made = {part: sum(size for number, size in trace.events if trace.part[number] == part and size > 0)
            for part in ("optimizer", "weights")}  # fmt: skip
    rotary = 8 * 4 * 2  # the frequencies of a head of 16, and transformers' copy of them
    assert made["weights"] == 4 * expected + rotary
    assert made["optimizer"] == 2 * 4 * expected


def test_gradients_are_as_large_as_what_trains(recipe: Callable[..., Any]) -> None:
    """LoRA of rank 2 on query alone: A 2·32 and B 32·2 in each of two layers, 256 numbers, 1,024 bytes of gradients."""
    trace = Trace()
    prepared = _prepare(recipe(lora={"rank": 2, "targets": ["query"]}), _here(), trace, [])
    found = weigh(prepared, trace)
    assert found.trainable == 2 * (2 * 32 + 32 * 2)
    step = next(phase for phase in trace.phases if phase.name == "step")
    born = [n for n, size in trace.events[step.first : step.last] if size > 0 and trace.part[n] == "gradients"]
    sizes = {n: size for n, size in trace.events if size > 0}
    assert sum(sizes[n] for n in born) == 4 * found.trainable


def test_logits_are_positions_by_vocabulary(recipe: Callable[..., Any]) -> None:
    """One micro-batch of all four rows: each supervises as many tokens; fp32 logits are 4 · N · V bytes each time."""
    trace = Trace()
    prepared = _prepare(recipe(method="full"), _here(), trace, [])
    weigh(prepared, trace)
    supervised = sum(sum(row["supervised"]) for row in prepared.train.rows[:4])
    width = len(prepared.backbone.embedding.weight)
    logits = [size for number, size in trace.events if size > 0 and trace.part[number] == "logits"]
    assert set(logits) == {4 * supervised * width}
    assert len(logits) >= 3  # the logits, their log-softmax, their gradient


def test_parts_add_up_to_the_peak(recipe: Callable[..., Any]) -> None:
    found = estimate(recipe(method="full"), _here())
    assert sum(found.parts.values()) == pytest.approx(found.peak)
    assert found.peak == pytest.approx(max(found.phases.values()))
    assert found.fits


def test_a_gpu_holds_neither_python_nor_a_checkpoint(recipe: Callable[..., Any]) -> None:
    found = estimate(recipe(method="full"), named("T4"))
    assert "base" not in found.parts
    assert found.worst == "step"
    assert found.model["micro_tokens"] == 16384  # what a GPU gets
    assert {key: value for key, value, _ in found.recipe}["precision"] == "fp32"  # a T4 has no bf16


def test_a_trace_of_one_product() -> None:
    """x (4, 8) @ w (8, 16), both fp32, then backward of the sum.

    Forward: out 4·16·4 = 256 bytes and a scalar. FLOPs 2·4·8·16 = 1,024; backward of w is one product more: 2,048.
    """
    trace = Trace()
    with trace.fake:
        x, w = torch.empty(4, 8), torch.empty(8, 16, requires_grad=True)
    trace.name("weights", [w])
    with trace, trace.phase("step") as phase:
        total = (x @ w).sum()
        total.backward()
    assert phase.work.flops == 2048
    sizes = [size for number, size in trace.events if size > 0]
    assert sizes[:3] == [8 * 16 * 4, 4 * 16 * 4, 4]
    assert w.grad is not None
    assert w.grad.shape == (8, 16)


def test_the_heap_reuses_what_is_free_and_maps_what_is_large() -> None:
    """1 MB released and 0.5 MB taken: the heap does not grow. 64 MB lies apart, and goes back when released.

    The threshold begins at 128 kB, so the first megabyte lies apart too; once released it makes the threshold 1 MB and
    a bit, and the next one of 1 MB lies in the heap.
    """
    heap, mega = Heap(), 2**20
    heap.take(1, mega)
    assert (heap.end, heap.mapped) == (0, mega)
    heap.release(1)
    assert heap.resident == 0
    heap.take(2, mega // 2)
    grown = heap.end
    assert mega // 2 <= grown < mega // 2 + 1024
    heap.release(2)
    heap.take(3, mega // 4)
    assert heap.end == grown
    heap.take(4, 64 * mega)
    assert heap.mapped == 64 * mega
    heap.release(4)
    assert heap.resident == grown


def test_devices_are_found_by_short_names() -> None:
    assert named("t4").name == "T4"
    assert named("h100").name == named("H100-80").name == "H100-80GB"
    assert named("rtx 4090").name == "RTX-4090"
    assert named("A100-40GB").usable == 40 * 2**30 - CONTEXT
    with pytest.raises(Refused) as refusal:
        named("H10-80GB")
    [finding] = refusal.value.findings
    assert finding.code == "plan.device"
    assert "H100-80GB" in finding.mend


def test_what_cannot_be_traced_is_reckoned_by_the_formula(
    recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Korthikanti et al.: 17 numbers of the width a token and layer (34 bytes in 16 bits) are kept."""

    def fails(*_: Any) -> None:
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr("luthier.plan.plan.weigh", fails)
    found = estimate(recipe(method="full"), named("T4"))
    assert "by a formula" in found.notes[-1]
    tokens = found.model["largest_micro_batch"]
    activations = 17 * 4 * tokens * 32 * 2
    assert found.parts["activations"] == pytest.approx(activations, abs=512)


def test_summed_is_the_largest_sum_of_what_is_alive() -> None:
    """Borrowed 100 MB, 200 MB more, the first given back, 50 MB more: 300 at the worst, then 250."""
    from luthier.plan.memory import Footprint

    trace, mega = Trace(), 2**20
    with trace.phase("step"):
        first = trace.borrow([100 * mega], "activations")
        trace.borrow([200 * mega], "gradients")
        trace.give_back(first)
        trace.borrow([50 * mega], "optimizer")
    parts, phases, worst = summed(Footprint(trace), _here(), 0.0)
    assert phases == {"step": 300 * mega}
    assert worst == "step"
    assert parts == {"activations": 100 * mega, "gradients": 200 * mega}


def test_transformers_is_not_left_changed(recipe: Callable[..., Any]) -> None:
    before = torch.nn.Module._apply
    estimate(recipe(method="full"), _here())
    assert torch.nn.Module._apply is before
    assert isinstance(transformers.AutoConfig.for_model("bert"), transformers.PretrainedConfig)
