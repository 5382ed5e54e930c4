"""The verbs of trained adapters: merged, averaged, stacked, switched."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.say import given_lines, say
from luthier.types import Finding, Refused


def export(given: argparse.Namespace) -> int:
    return _exported(given, given.form)


def merge(given: argparse.Namespace) -> int:
    return _exported(given, "merged")


def _exported(given: argparse.Namespace, form: str) -> int:
    from luthier.runs.run import load

    told = load(given.run).export(form, given.to)
    if given.json:
        say(told)
    else:
        print(f"{told['folder']}: {_alike(told)} (relative {told['relative']:.1e}, bound {told['bound']:.0e})")
    return 0


def _alike(told: dict[str, Any]) -> str:
    same = f"{told['agreement']:.0%} of {told['prompts']} answers agree"
    return f"{same}, outputs differ by at most {told['difference']:.1e}"


def adapters(given: argparse.Namespace) -> int:
    from luthier.runs.finished.adapters import average, listing, stack

    if not given.average and not given.stack:
        rows = listing(given.runs)
        if given.json:
            say(rows)
        for row in [] if given.json else rows:
            score = f"{row['metric']} {row['score']:.4f}" if row["score"] is not None else "no score"
            merges = "merges" if row["merges"] else "does not merge"
            end = f"{row['task']}, {row['base']}; {score}; {merges}"
            print(f"{row['run']:<40} {row['method']:<14} {row['shape']:<24} {end}")
        return 0
    if not given.to:
        raise Refused(Finding("recipe.missing-key", "--to", "where shall the new run go?", "give `--to runs/name`"))
    weights = _weights(given.weights) if given.weights else None
    told = average(given.runs, given.to, weights) if given.average else stack(given.runs, given.to)
    if given.json:
        say(told)
        return 0
    print(f"{told['folder']}: {told['how']} of {', '.join(given.runs)}")
    for run, alike in told["parity"].items():
        print(f"  beside {run}: {_alike(alike)}")
    return 0


def _weights(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        what = f"`{text}` is no list of numbers"
        raise Refused(Finding("adapters.weights", "--weights", what, "give them as `--weights 0.7,0.3`")) from None


def switch(given: argparse.Namespace) -> int:
    from luthier.runs.finished.switch import Switch, requests

    one = Switch(given.runs)
    asked = requests(one, given.use, given.data, given.text or (None if given.data else given_lines()))
    options = {"max_new_tokens": given.max_new_tokens} if given.max_new_tokens else {}
    answers = one.answers(asked, **options)
    if given.json:
        say([{"input": put, **answer} for (_, put), answer in zip(asked, answers, strict=True)])
        return 0
    for (name, _), answer in zip(asked, answers, strict=True):
        print(f"{name}: {one.seats[name].predictor.task.shown_answer(answer)}")
    return 0
