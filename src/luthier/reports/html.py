"""report.html: one file that says what a run did, with its style and charts inside and nothing from the network."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from luthier.reports.curves import curves
from luthier.reports.data import data, findings
from luthier.reports.errors import errors
from luthier.reports.figures import plain, unbroken
from luthier.reports.folder import RunFolder, read_run, recipe_rows
from luthier.reports.markup import Html, element, join, table
from luthier.reports.mixing import mixing
from luthier.reports.over_time import over_time
from luthier.reports.result import before_after, facts, trained
from luthier.reports.rewards import rewards
from luthier.reports.rollouts import rollouts
from luthier.reports.samples import samples
from luthier.reports.teacher import teacher
from luthier.reports.verdict import verdict

# A browser itself then keeps the page off the network; pictures are in the page.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(run: Path) -> Path:
    """Write ``report.html`` into the run folder from what is there, and return its path.

    Raises Refused where the folder holds no ``run.json``; a run that goes on is reported as far as it came.
    """
    folder = read_run(run)
    target = folder.path / "report.html"
    unfinished = target.with_suffix(".html.part")
    unfinished.write_text(page(folder), encoding="utf-8")
    os.replace(unfinished, target)
    return target


def page(folder: RunFolder) -> str:
    """The whole document."""
    name = folder.run.get("name", folder.path.name)
    parts = [section(key, heading, part(folder)) for key, heading, part in SECTIONS]
    return document(f"{name} · run report", opening(folder, name), parts, footer(folder.run.get("luthier")))


def document(title: str, *parts: Any) -> str:
    """A page that is complete in itself: the style inside, and a policy that lets nothing else be fetched or run."""
    style = files("luthier.reports").joinpath("report.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", title),
        element("style", Html(style)),
    )
    body = element("body", element("main", *parts))
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


def opening(folder: RunFolder, name: str) -> Html:
    """The name, the verdict and the first facts."""
    kind = element("p", "Run report", class_="kicker")
    sentence = element("p", unbroken(verdict(folder)), class_="verdict")
    return element("header", kind, element("h1", name), sentence, facts(folder))


def section(key: str, heading: str, content: Html) -> Html:
    """A part with its heading in the margin; nothing where there is no content."""
    if not content:
        return Html("")
    title = element("h2", heading, id=f"{key}-title")
    return element("section", title, element("div", content), id=key, aria_labelledby=f"{key}-title")


def recipe(folder: RunFolder) -> Html:
    """Each resolved value with where it came from; what a person gave is set bold."""
    rows: list[list[Any]] = [_recipe_row(*row) for row in recipe_rows(folder.recipe)]
    return table(["Key", "Value", "From"], rows, caption="The resolved recipe") if rows else Html("")


def _recipe_row(key: str, value: str, origin: str) -> list[Any]:
    written = element("code", value)
    return [element("code", key), element("b", written) if given(origin) else written, origin or "–"]


def given(origin: str) -> bool:
    """Whether a person set it: in a file (``given recipe.yaml:3``, ``recipe.yaml:3``) or on the command line."""
    return origin.startswith(("given", "command line")) or origin.rpartition(":")[2].isdigit()


def machine(folder: RunFolder) -> Html:
    """What it ran on and with, and what tells this run from others."""
    run = folder.run
    rows: list[list[Any]] = [[key, plain(value)] for key, value in (run.get("machine") or {}).items()]
    rows += [[key, value] for key, value in (run.get("versions") or {}).items()]
    rows += [[text, run[key]] for key, text in (("created", "begun"), ("recipe_hash", "recipe hash")) if run.get(key)]
    return table(["What", "Value"], rows, caption="Machine and versions") if rows else Html("")


def footer(version: str | None) -> Html:
    return element(
        "footer", join("Written by Luthier", f" {version}" if version else None, ". This file is complete in itself.")
    )


SECTIONS = (
    ("result", "Before and after", before_after),
    ("teacher", "Teacher", teacher),
    ("curves", "Training", curves),
    ("rewards", "Rewards", rewards),
    ("rollouts", "Answers of its own", rollouts),
    ("trained", "What was trained", trained),
    ("mixing", "Fusion", mixing),
    ("data", "Data", data),
    ("findings", "Findings", findings),
    ("errors", "Errors", errors),
    ("samples", "Samples", samples),
    ("over-time", "Answers over time", over_time),
    ("recipe", "Recipe", recipe),
    ("machine", "Machine and versions", machine),
)
