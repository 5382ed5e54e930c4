"""Which method to take, by a rule that is stated: among those that can't be told from the best, the smallest."""

from __future__ import annotations

from typing import Any

from luthier.reports.figures import count, decimals, duration, finite, share

RULE = (
    "Among the methods whose score can't be told from the best one (the 95 % interval of the difference on the same "
    "rows holds zero), take the one that trains the fewest numbers; where those are equal, the faster."
)
# Costs that differ by less are not worth a word.
NOTEWORTHY = 1.1

Entry = dict[str, Any]


def recommend(result: dict[str, Any]) -> dict[str, Any]:
    """``best``, ``recommended``, ``tied`` (names), ``reasons`` (sentences) and the ``rule``."""
    known = [method for method in result["methods"] if "score" in method]
    if not known:
        return {"best": None, "recommended": None, "tied": [], "reasons": ["No method reached its end."], "rule": RULE}
    best = next(method for method in known if "difference" not in method)
    tied = [method for method in known if not told_apart(method)]
    chosen = min(tied, key=lambda method: (method["trainable"], method["seconds"]))
    return {
        "best": best["name"],
        "recommended": chosen["name"],
        "tied": [method["name"] for method in tied],
        "reasons": [_first(chosen, best, known, result), *_others(chosen, best, tied, result)],
        "rule": RULE,
    }


def told_apart(method: Entry) -> bool:
    """Whether the interval of its difference from the best leaves zero out."""
    gap = method.get("difference")
    return gap is not None and not gap["low"] <= 0 <= gap["high"]


def _first(chosen: Entry, best: Entry, known: list[Entry], result: dict[str, Any]) -> str:
    name, metric = chosen["name"], result["metric"].replace("_", " ")
    if len(known) == 1:
        return f"{name} is the only method with a score: {_value(chosen)} {metric}."
    if chosen is best:
        least = min(method["trainable"] for method in known) == best["trainable"]
        more = "trains the fewest numbers" if least else "no method that trains less comes as close"
        return f"{name} has the best {metric}, {_value(chosen)}, and {more}."
    gap = chosen["difference"]
    places = max(3, decimals(gap, chosen["score"], best["score"]))
    more = f"{abs(gap['value']):.{places}f}"
    worse = (gap["value"] < 0) == result["higher_is_better"]
    away = "level with" if gap["value"] == 0 else f"{more} {'worse' if worse else 'better'} than"
    ends = f"{gap['low']:+.{places}f} to {gap['high']:+.{places}f}".replace("-", "−")
    sentence = f"{name} is {away} the best, {best['name']}, in {metric} ({ends} in 95 % of the resamples, so it may be "
    return sentence + f"chance), with {_costs(chosen, best)}."


def _costs(chosen: Entry, best: Entry) -> str:
    """ "1.2 % of its trained numbers and 0.6 of its time"."""
    numbers = "no numbers trained by steps" if not chosen["trainable"] else None
    if numbers is None:
        part = share(chosen["trainable"], best["trainable"]) if best["trainable"] else count(chosen["trainable"])
        numbers = f"{part} of its trained numbers"
    return f"{numbers} and {_times(chosen['seconds'], best['seconds'])} of its time"


def _times(ours: float, theirs: float) -> str:
    ratio = ours / theirs if theirs else float("inf")
    return f"{ratio:.2f}" if finite(ratio) and ratio >= 0.01 else duration(ours)


def _others(chosen: Entry, best: Entry, tied: list[Entry], result: dict[str, Any]) -> list[str]:
    """What else a reader should know before taking it."""
    told = []
    dearer = [
        f"{ratio:.2g} of the {name} of {best['name']}"
        for key, name in (("seconds", "training time"), ("peak_memory_mb", "memory"), ("inference", "inference time"))
        if chosen is not best and best[key] and (ratio := chosen[key] / best[key]) > NOTEWORTHY
    ]
    if dearer:
        told.append(f"It takes more elsewhere: {', '.join(dearer)}.")
    quickest = min(tied, key=lambda method: method["seconds"])
    if quickest is not chosen and quickest["seconds"] * NOTEWORTHY < chosen["seconds"]:
        ratio = _times(quickest["seconds"], chosen["seconds"])
        told.append(
            f"Where time counts more than size: {quickest['name']}, as good within chance, in {ratio} of its time."
        )
    halves = [(m["difference"]["high"] - m["difference"]["low"]) / 2 for m in result["methods"] if "difference" in m]
    if halves:
        told.append(f"These {count(best['score']['n'])} rows and {_seeds(result)} show differences of about "
                    f"{min(halves):.2g} to {max(halves):.2g}, no smaller ones.")  # fmt: skip
    missing = [method["name"] for method in result["methods"] if "score" not in method]
    if missing:
        told.append(f"Without a score: {', '.join(missing)}.")
    if any(method["status"] == "partial" for method in result["methods"]):
        told.append("Not every method has all its seeds.")
    return told


def _seeds(result: dict[str, Any]) -> str:
    number = len(result["seeds"])
    return f"{number} seeds" if number > 1 else "one seed"


def _value(method: Entry) -> str:
    return f"{method['score']['value']:.{max(3, decimals(method['score']))}f}"
