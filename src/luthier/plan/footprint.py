"""A trace's events added up: what is held, by part, at the worst moment of each phase; and a formula where no trace is.

On a CPU the allocator's heap is replayed (``heap.py``); weights lie in mapped files or pages of their own. On a GPU the
peak of what is alive is taken, each block rounded up to 512 bytes, plus a share for the caching allocator.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from luthier.plan.devices import Device
from luthier.plan.heap import SMALL, Heap
from luthier.plan.memory import Footprint, worst_groups
from luthier.plan.trace import Trace
from luthier.runs.prepared import Prepared

GPU_BLOCK = 512
GPU_SHARE = 0.05
"""What a caching allocator holds beyond what is alive, as a share: an assumption, not a measurement."""
PARTS = ("base", "weights", "gradients", "optimizer", "activations", "logits", "caches", "temporary", "allocator")


def summed(found: Footprint, device: Device, base: float) -> tuple[dict[str, float], dict[str, float], str]:
    """(parts at the worst moment of all, the peak of each phase, the phase of the worst moment)."""
    held: Counter[str] = Counter({"base": int(base)})
    phases: dict[str, float] = {}
    peak, worst = 0.0, ""
    parts: dict[str, float] = dict(held)
    heap = Heap()
    turns = iter(found.trace.phases)
    phase = next(turns, None)
    for at, (number, size) in enumerate(found.trace.events):
        while phase is not None and at >= phase.last:
            phase = next(turns, None)
        part = found.trace.part[number]
        if device.kind == "cpu":
            if part != "weights":
                _replay(heap, number, size, found.trace)
            held[part] += size
        elif number not in found.trace.borrowed:
            held[part] += (abs(size) + GPU_BLOCK - 1) // GPU_BLOCK * GPU_BLOCK * (1 if size >= 0 else -1)
        total = _total(held, heap, device)
        name = phase.name if phase is not None and at >= phase.first else "loading"
        if total > phases.get(name, 0.0):
            phases[name] = total
        if total > peak:
            peak, worst = total, name
            parts = {**held, "allocator": total - sum(held.values())}
    return {name: float(parts[name]) for name in PARTS if parts.get(name)}, phases, worst


def _replay(heap: Heap, number: int, size: int, trace: Trace) -> None:
    if size < 0:
        heap.release(number)
    elif number in trace.borrowed:
        heap.map(number, size)
    else:
        heap.take(number, size, 0 if number in trace.graphless else SMALL)


def _total(held: Counter[str], heap: Heap, device: Device) -> float:
    if device.kind == "cpu":
        return held["base"] + held["weights"] + heap.resident
    return sum(held.values()) * (1 + GPU_SHARE)


def by_formula(prepared: Prepared, trace: Trace) -> Footprint:
    """Korthikanti et al. 2022 (arXiv 2205.05198), equation 2 without the attention scores: 34 · tokens · width bytes a
    layer in 16 bits, twice that in 32; and 16 bytes a trainable number for weight, gradient and AdamW's state."""
    recipe: Any = prepared.resolved.recipe
    fresh = Trace()
    model, parameters = prepared.backbone.model, prepared.adaptation.parameters.values()
    trainable = sum(p.numel() for p in parameters)
    groups = worst_groups(prepared, prepared.train.rows)
    tokens = max(sum(len(prepared.train.rows[i]["input_ids"]) for i in group) for group in groups)
    wide = 2 if recipe.precision == "bf16" else 4
    blocks = max(1, len(prepared.backbone.seams.blocks))
    activations = 17 * wide * tokens * prepared.backbone.width * (1 if recipe.gradient_checkpointing else blocks)
    output = model.get_output_embeddings()
    logits = min(tokens * output.weight.shape[0], 2**24) * 4 * 3 if output is not None else 0
    sizes = {
        "weights": sum(p.numel() * p.element_size() for p in prepared.weights),
        "gradients": 4 * trainable, "optimizer": 8 * trainable, "activations": activations, "logits": logits,
    }  # fmt: skip
    with fresh.phase("step") as phase:
        for part, size in sizes.items():
            fresh.borrow([size], part)
        phase.work.flops = 6.0 * tokens * sum(p.numel() for p in prepared.weights)
    fresh.borrowed.clear()
    found = Footprint(fresh, tokens=tokens, groups=groups, trainable=trainable)
    found.tokens_of_largest = tokens
    return found
