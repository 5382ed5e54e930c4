"""Answers to fixed prompts as training went on: a row a prompt, a column a step, before … after."""

from __future__ import annotations

from typing import Any

from luthier.reports.figures import count
from luthier.reports.folder import RunFolder, read_lines
from luthier.reports.markup import Html, element, join, table

COLUMNS = 6


def over_time(folder: RunFolder) -> Html:
    """At most six steps: the first, the last, and some between at equal distances."""
    lines = read_lines(folder.path / "samples_over_time.jsonl")
    steps = sorted({line["step"] for line in lines})
    if not steps:
        return Html("")
    shown = _spread(steps)
    inputs: dict[int, str] = {line["prompt"]: line["input"] for line in lines}
    answers = {(line["prompt"], line["step"]): line["answer"] for line in lines}
    best = (folder.result or {}).get("best_step")
    head = ["Prompt", *(_name(step, best) for step in shown)]
    rows: list[list[Any]] = [
        [element("span", text, class_="answer"), *(_answer(answers.get((number, step))) for step in shown)]
        for number, text in sorted(inputs.items())
    ]
    more = len(steps) - len(shown)
    rest = element("p", f"{count(more)} more steps in samples_over_time.jsonl.", class_="more") if more else None
    return join(table(head, rows, caption="Answers to the same prompts, by step"), rest)


def _spread(steps: list[int]) -> list[int]:
    if len(steps) <= COLUMNS:
        return steps
    places = [round(at * (len(steps) - 1) / (COLUMNS - 1)) for at in range(COLUMNS)]
    return [steps[place] for place in places]


def _name(step: int, best: Any) -> str:
    if step == 0:
        return "Before"
    return f"Step {count(step)}, kept" if step == best else f"Step {count(step)}"


def _answer(answer: Any) -> Html:
    if answer is None:
        return Html("–")
    return element("span", answer, class_="answer") if answer else element("i", "nothing")
