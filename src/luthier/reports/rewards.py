"""The rewards of chosen and rejected answers as training went on, and whether both became less likely."""

from __future__ import annotations

from luthier.reports.curves import figure, points
from luthier.reports.folder import Record, RunFolder
from luthier.reports.markup import Html, element, join
from luthier.reports.svg import Series, thinned

SIDES = (("chosen", "main"), ("rejected", "quiet"))


def rewards(folder: RunFolder) -> Html:
    """Nothing for a run without preferences. Of rows held out where there are any, else of the training steps."""
    records = folder.kind("eval")
    held_out = any("chosen_reward" in record for record in records)
    records = records if held_out else folder.kind("train")
    series = [Series(name, thinned(points(records, f"{name}_reward")), style) for name, style in SIDES]
    drawn = figure(f"Reward of {'held-out' if held_out else 'training'} answers", series, [])
    return join(drawn, element("p", said)) if (said := sentence(folder.result or {})) and drawn else drawn


def sentence(result: Record) -> str:
    """What the two rewards say together; nothing where the run has no reference that they start from."""
    before, after = result.get("before") or {}, result.get("after") or {}
    if any("kl" not in metrics for metrics in (before, after)):
        return ""
    names = [f"{name}_reward" for name, _ in SIDES]
    chosen, rejected = (after[name]["value"] - before[name]["value"] for name in names)
    if chosen >= 0:
        return "The chosen answers became likelier than they were."
    if rejected < chosen:
        return "Both answers became less likely than they were, the rejected ones more so."
    return "The chosen answers became less likely than they were."
