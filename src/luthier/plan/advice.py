"""What would make a run fit, from the cheapest change to the dearest; each one is planned, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from luthier.plan.estimate import Estimate

SMALLEST = 128  # micro_tokens below this gain nothing
ENOUGH = 2  # changes that fit alone: more are not looked for
NF4 = 0.5 + 1 / 16  # bytes a number with double quantization, rounded up (QLoRA, arXiv 2305.14314, section 3)


def advise(found: Estimate, again: Callable[[list[str]], Estimate | None]) -> list[dict[str, Any]]:
    """Changes to the recipe, in the order of what they cost, with the peak each gives; then, where none is enough
    alone, all of them together one after the other until the run fits."""
    told: list[dict[str, Any]] = []
    for words, cost in _changes(found):
        changed = again(words)
        if changed is not None and changed.peak < found.peak:
            told.append(_told(words, cost, changed))
        if sum(one["fits"] for one in told) >= ENOUGH:
            return told
    if any(one["fits"] for one in told):
        return told
    told += _quantized(found)
    together: list[str] = []
    for one in [one for one in told if one["change"]]:
        together = [*together, *one["change"]]
        changed = again(together) if len(together) > len(one["change"]) else None
        if changed is not None and changed.fits:
            return [*told, _told(together, "all of these", changed)]
    return told


def _told(words: list[str], cost: str, changed: Estimate) -> dict[str, Any]:
    peak = round(changed.peak / 2**20)
    return {"change": words, "cost": cost, "peak_mb": peak, "fits": changed.fits, "step_s": changed.timing.step}


def _changes(found: Estimate) -> Iterator[tuple[list[str], str]]:
    """(overrides, what they cost)."""
    now = {key: value for key, value, _ in found.recipe}
    tokens = min(int(now.get("micro_tokens") or 0), int(found.model["largest_micro_batch"]))
    longest = max(SMALLEST, int(found.model["longest_row"]))
    for fewer in sorted({max(longest, tokens // 2), longest}, reverse=True):
        if fewer < tokens:
            yield [f"micro_tokens={fewer}"], "more, smaller products; the same result"
    if not now.get("gradient_checkpointing"):
        yield ["gradient_checkpointing=true"], "about a third more time; the same result"
    if now.get("precision") == "fp32" and found.device.has_bf16:
        yield ["precision=bf16"], "products rounded to 8 bits"
    method = now.get("method")
    if method != "lora" and found.model["trainable"] > 0.05 * found.model["parameters"]:
        yield ["method=lora"], "another method: low-rank updates"
    if int(found.model["longest_row"]) > 256:
        shorter = int(found.model["longest_row"]) // 2
        yield [f"max_length={shorter}", "overlong=truncate"], "longer rows are cut"


def _quantized(found: Estimate) -> list[dict[str, Any]]:
    """4-bit frozen weights, by a formula: planning them needs bitsandbytes."""
    frozen = found.model["parameters"] - found.model["trainable"]
    if found.device.kind != "cuda" or frozen < 0.95 * found.model["parameters"]:
        return []
    wide = 2 if found.model["precision"] == "bf16" else 4
    peak = found.peak - frozen * (wide - NF4)
    cost = "frozen weights in 4 bits (embeddings too, in this reckoning); slower"
    return [{"change": ["lora.quantize=nf4"], "cost": cost, "peak_mb": round(peak / 2**20),
             "fits": peak <= found.device.usable, "step_s": found.timing.step}]  # fmt: skip
