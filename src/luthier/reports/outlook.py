"""A plan as a person reads it: memory by part, time, disk, and what would make it fit."""

from __future__ import annotations

from typing import Any

from luthier.reports.figures import compact, count, duration

MEANING = {
    "base": "Python, torch, transformers, the rows",
    "weights": "of the model and what the method adds",
    "gradients": "of what trains",
    "optimizer": "AdamW's two moments",
    "activations": "kept for the backward pass",
    "logits": "of one chunk of positions, and their gradients",
    "caches": "hidden states of a frozen trunk",
    "temporary": "workspace; while a checkpoint is written, its bytes",
    "allocator": "held by the allocator, not in use",
}


def outlook(plan: dict[str, Any]) -> list[str]:
    """Lines of text from ``Estimate.as_dict()``."""
    model, memory, time, device = plan["model"], plan["memory"], plan["time"], plan["device"]
    share = f"{compact(model['trainable'])} of {compact(model['parameters'])} numbers train"
    lines = [f"{model['name']}: {share}; {model['precision']}, rows {model['layout']}, "
             f"at most {count(model['largest_micro_batch'])} tokens at a time", ""]  # fmt: skip
    title = f"memory at the worst moment ({memory['worst']})"
    lines += [title, *(f"  {name:<12} {size(mb):>10}  {MEANING[name]}" for name, mb in memory["parts_mb"].items())]
    origin = f"  {memory['origin']}" if memory["origin"] else ""
    lines += [f"  {'peak':<12} {size(memory['peak_mb']):>10}{origin}", ""]
    verdict = "fits in" if plan["fits"] else "does NOT fit in"
    lines += [f"{verdict} {device['name']}: {size(device['usable_mb'])} can be used", *_advice(plan), ""]
    lines += [*_time(time), f"disk     {_disk(plan['disk_mb'])}"]
    return lines + [f"note: {note}" for note in plan["notes"]]


def _time(time: dict[str, Any]) -> list[str]:
    if not time["steps"]:
        return [f"time     {duration(time['run_s'])} for one pass over the rows ({time['origin']})"]
    step = f"{time['step_s'] * 1000:,.0f} ms" if time["step_s"] < 10 else duration(time["step_s"])
    parts = f"{count(time['steps'])} steps of {step}"
    if time["evaluations"] and time["evaluation_s"]:
        parts += f", {time['evaluations']} evaluations of {duration(time['evaluation_s'])}"
    if time["once_s"]:
        parts += f", {duration(time['once_s'])} once, before the first step"
    kind = {"measured here": "an estimate: FLOPs and bytes by rates measured here",
            "data sheet": "an estimate: FLOPs and bytes by 40 % of the data sheet's rates"}  # fmt: skip
    return [f"time     {duration(time['run_s'])}: {parts}", f"         {kind.get(time['origin'], time['origin'])}"]


def _disk(disk: dict[str, float]) -> str:
    return ", ".join(f"{name} {size(mb)}" for name, mb in disk.items()) or "nothing to speak of"


def _advice(plan: dict[str, Any]) -> list[str]:
    lines = []
    for one in plan["advice"]:
        mark = "fits" if one["fits"] else "not enough"
        lines.append(f"  {' '.join(one['change']):<34} {size(one['peak_mb']):>10}  {mark}: {one['cost']}")
    if not plan["fits"] and not lines:
        lines.append("  nothing that this recipe could change would help: take a smaller model or a larger device")
    return lines


def size(mb: float) -> str:
    """Megabytes (2**20 bytes) as MB or GB (2**30)."""
    return f"{mb / 1024:.1f} GB" if mb >= 10240 else f"{mb:,.0f} MB" if mb >= 10 else f"{mb:.1f} MB"
