"""Samples before and after training: those that changed first, right and wrong marked by sign and word."""

from __future__ import annotations

from luthier.reports.figures import count
from luthier.reports.folder import Record, RunFolder
from luthier.reports.markup import Html, element, join

SHOWN = 60
BRIEF = 80  # characters up to which a changed answer is set bold
FILTERS = (("all", "All"), ("changed", "Changed"), ("wrong", "Wrong after"))


def samples(folder: RunFolder) -> Html:
    """At most 60 samples, with a filter that needs no script."""
    ranked = sorted(folder.samples, key=lambda one: not one.get("changed"))
    if not ranked:
        return Html("")
    more = len(ranked) - SHOWN
    rest = element("p", f"{count(more)} more in samples.jsonl.", class_="more") if more > 0 else None
    return join(element("p", _tally(ranked)), _filter(ranked), [sample(one, folder) for one in ranked[:SHOWN]], rest)


def _tally(ranked: list[Record]) -> str:
    changed = sum(bool(one.get("changed")) for one in ranked)
    judged = [one["right"] for one in ranked if one.get("right") is not None]
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


def sample(row: Record, folder: RunFolder) -> Html:
    """One row with its target and answers, and its pictures where the run kept them."""
    kinds = ["sample"] + [kind for kind in ("changed",) if row.get(kind)]
    kinds += ["wrong"] if row.get("right") is False else []
    aside = element("p", element("code", row.get("source", "")), _marks(row), class_="aside")
    spans, text = row.get("spans") or {}, row.get("input", "")
    answers = [
        (name.capitalize(), marked(text, spans[name]) if spans.get(name) is not None else row.get(name))
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
    pictures = [one for one in folder.thumbnails.get(row.get("source", ""), []) if one]
    shown = [element("img", src=one, alt="picture of this row", loading="lazy") for one in pictures]
    given = element(
        "div", element("div", shown, class_="pictures") if shown else None, text, class_="input", tabindex="0"
    )
    body = element("div", given, element("dl", lines))
    return element("article", aside, body, class_=" ".join(kinds))


def marked(text: str, spans: list[Record]) -> Html:
    """The text with its parts as ``<mark>``, each followed by its label."""
    parts: list[Html | str] = []
    at = 0
    for span in spans:
        inside = element("mark", text[span["start"] : span["end"]], element("small", span["label"]))
        parts += [text[at : span["start"]], inside]
        at = span["end"]
    return join(parts, text[at:])


def _text(answer: object) -> object:
    return answer if answer != "" else element("i", "nothing")


def _marks(row: Record) -> list[Html]:
    right = row.get("right")
    verdicts = {
        True: element("span", "✓ right", class_="right"),
        False: element("span", "✗ wrong", class_="wrong-mark"),
    }
    marks = [verdicts[right]] if right is not None else []
    if "changed" in row:
        marks.append(element("span", "changed" if row["changed"] else "unchanged"))
    marks += [element("span", text) for text in row.get("marks", [])]
    return marks + [element("span", f"{name} {weight:.2f}") for name, weight in (row.get("mixing") or {}).items()]
