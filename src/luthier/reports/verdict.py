"""The verdict of a run in a sentence, and no stronger than its numbers."""

from __future__ import annotations

from luthier.reports.figures import Metric, count, decimals, interval, label, share, span
from luthier.reports.folder import Record, RunFolder

SUBJECT = {
    "lora": "LoRA on {share} of the numbers",
    "full": "Full fine-tuning",
    "freeze": "Training {share} of the numbers",
    "features": "A classifier on frozen features",
    "adapter": "Bottleneck adapters, {share} of the numbers,",
    "fusion": "AdapterFusion, {share} of the numbers,",
    "ia3": "(IA)³ on {share} of the numbers",
    "prompt": "A soft prompt, {share} of the numbers,",
    "prefix": "Prefix tuning, {share} of the numbers,",
}


def verdict(folder: RunFolder) -> str:
    """What training did to the chosen metric, with its interval, and whether the run reached its end.

    Where the intervals before and after overlap, it says that the difference may be chance.
    """
    after = folder.metric("after")
    if folder.result is None or after is None:
        return _unfinished(folder)
    before = folder.metric("before")
    text = f"{_subject(folder)} {_change(folder.result, before, after)}."
    return f"{text} {ending(folder)}".strip()


def _subject(folder: RunFolder) -> str:
    method, result = folder.run["method"], folder.result or {}
    phrase = SUBJECT.get(method, f"{method} on {{share}} of the numbers")
    return phrase.format(share=share(result.get("trainable", 0), result.get("parameters", 0)))


def _change(result: Record, before: Metric | None, after: Metric) -> str:
    name, places = label(result["metric"]), decimals(before, after)
    reached = f"{after['value']:.{places}f}"
    rows = _held_out(result, after)
    if before is None:
        aside = f"95 % interval {span(after, places)}; " if interval(after) else ""
        return f"reached {name} {reached}{rows} ({aside}not measured before training)"
    aside = _aside(before, after, places)
    if before["value"] == after["value"]:
        return f"left {name} at {reached}{rows}{aside}"
    rose = after["value"] > before["value"]
    worse = "" if rose == result["higher_is_better"] else ", which is worse"
    start = f"{before['value']:.{places}f}"
    return f"{'raised' if rose else 'lowered'} {name} from {start} to {reached}{rows}{aside}{worse}"


def _held_out(result: Record, after: Metric) -> str:
    """ " on 240 rows held out". ``n`` may count tokens, which are never fewer than the rows."""
    used = ((result.get("data") or {}).get("eval") or {}).get("used")
    known = [number for number in (after.get("n"), used) if number]
    return f" on {count(min(known))} rows held out" if known else ""


def _aside(before: Metric, after: Metric, places: int) -> str:
    if not interval(after):
        return ""
    text = f"95 % interval {span(after, places)}"
    if overlap(before, after) and before["value"] != after["value"]:
        text += f", before {span(before, places)}: they overlap, so the difference may be chance"
    return f" ({text})"


def overlap(before: Metric, after: Metric) -> bool:
    first, second = interval(before), interval(after)
    return bool(first and second and first[0] <= second[1] and second[0] <= first[1])


def ending(folder: RunFolder) -> str:
    """ "" for a run that finished; otherwise how far it came."""
    status, steps = folder.run.get("status"), (folder.result or {}).get("steps")
    reached = f" after {count(steps)} steps" if steps else ""
    reason = (folder.result or {}).get("stopped")
    if status == "finished" and reason:
        return f"It stopped early{reached}: {reason}."
    if status == "stopped":
        return f"The run was stopped{reached}, before its recipe ended."
    return "The run is not finished." if status == "running" else ""


def _unfinished(folder: RunFolder) -> str:
    steps = [record for record in folder.kind("train") if "step" in record]
    state = {"stopped": "The run was stopped", "running": "The run is not finished"}
    opening = state.get(folder.run.get("status", ""), "The run ended without an evaluation")
    if not steps:
        return f"{opening}; no step is on record."
    last = steps[-1]
    loss = f", with a training loss of {last['loss']:.4g}" if last.get("loss") is not None else ""
    return f"{opening}: step {count(last['step'])} is the last on record{loss}."
