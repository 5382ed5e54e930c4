"""Samples before and after training: those that changed first, right and wrong marked by sign and word."""

from __future__ import annotations

from luthier.reports.figures import count
from luthier.reports.folder import Record, RunFolder
from luthier.reports.markup import Html, element, join
from luthier.reports.mistakes import marked

SHOWN = 60
BRIEF = 80  # characters up to which a changed answer is set bold
FILTERS = (("all", "All"), ("changed", "Changed"), ("wrong", "Wrong after"))


def samples(folder: RunFolder) -> Html:
    """At most 60 samples, with a filter that needs no script."""
    ranked = sorted(folder.samples, key=lambda sample: not sample.get("changed"))
    if not ranked:
        return Html("")
    more = len(ranked) - SHOWN
    rest = element("p", f"{count(more)} more in samples.jsonl.", class_="more") if more > 0 else None
    return join(element("p", _tally(ranked)), _filter(ranked), [_sample(sample) for sample in ranked[:SHOWN]], rest)


def _tally(ranked: list[Record]) -> str:
    changed = sum(bool(sample.get("changed")) for sample in ranked)
    judged = [sample["right"] for sample in ranked if sample.get("right") is not None]
    text = f"{count(changed)} of {count(len(ranked))} answers changed"
    return f"{text}; {count(sum(judged))} of {count(len(judged))} are right after training." if judged else f"{text}."


def _filter(ranked: list[Record]) -> Html | None:
    if len(ranked) < 4:
        return None
    choices = [
        element("label", element("input", type="radio", name="show", id=f"show-{key}", checked=key == "all"), " ", text)
        for key, text in FILTERS
    ]
    return element("fieldset", element("legend", "Show"), choices, class_="filter")


def _sample(sample: Record) -> Html:
    kinds = ["sample"] + [kind for kind in ("changed",) if sample.get(kind)]
    kinds += ["wrong"] if sample.get("right") is False else []
    aside = element("p", element("code", sample.get("source", "")), _marks(sample), class_="aside")
    marks = sample.get("marks") or {}
    answers = [
        (name.capitalize(), marked(sample["input"], marks[name]) if marks.get(name) is not None else sample.get(name))
        for name in ("target", "before", "after")
    ]
    lines = [
        element(
            "div",
            element("dt", name),
            element("dd", _text(answer)),
            class_=f"{name.lower()} brief" if len(str(answer)) <= BRIEF else name.lower(),
        )
        for name, answer in answers
        if answer is not None
    ]
    body = element("div", element("div", sample.get("input", ""), class_="input", tabindex="0"), element("dl", lines))
    return element("article", aside, body, class_=" ".join(kinds))


def _text(answer: object) -> object:
    return answer if answer != "" else element("i", "nothing")


def _marks(sample: Record) -> list[Html]:
    right = sample.get("right")
    verdicts = {
        True: element("span", "✓ right", class_="right"),
        False: element("span", "✗ wrong", class_="wrong-mark"),
    }
    marks = [verdicts[right]] if right is not None else []
    marks.append(element("span", "changed" if sample.get("changed") else "unchanged"))
    return marks + [element("span", f"{name} {weight:.2f}") for name, weight in (sample.get("mixing") or {}).items()]
