"""What was done to the data: rows read, used and skipped by reason, the balance of labels, and the findings."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from luthier.reports.figures import count, plain, share
from luthier.reports.folder import Record, RunFolder
from luthier.reports.markup import Html, element, join, table
from luthier.reports.svg import bar

SHOWN_LABELS = 12
SEVERITIES = {"error": "Errors", "warning": "Warnings", "note": "Notes"}


def data(folder: RunFolder) -> Html:
    """One line for each split that adds up, then the labels."""
    found = (folder.result or {}).get("data") or {}
    rows = [_split(name, found[name]) for name in ("train", "eval") if (found.get(name) or {}).get("read")]
    if not rows:
        return Html("")
    head = ["Split", "Files", "Format", "Rows", "Tokens", "Longest"]
    splits = table(head, rows, caption="Rows read, used and skipped", numeric={4, 5})
    return join(splits, _sets((found.get("train") or {}).get("sets") or []), _balance(found.get("labels") or {}))


def _split(name: str, split: Record) -> list[Any]:
    files = join([element("code", file) for file in split.get("files") or []], between=", ")
    return [
        name,
        files,
        split.get("format") or "–",
        account(split),
        plain(split.get("tokens")),
        plain(split.get("longest")),
    ]


def account(split: Record) -> str:
    """ "520 read = 466 used + 52 held out + 2 duplicate", and how many are missing where it does not add up."""
    read, used = split.get("read", 0), split.get("used", 0)
    skipped = {
        "held out": split.get("split_off", 0),
        "to choose on": split.get("selection", 0),
        **(split.get("skipped") or {}),
    }
    words = [f"{count(number)} {reason}" for reason, number in skipped.items() if number]
    text = " + ".join([f"{count(read)} read = {count(used)} used", *words])
    missing = read - used - sum(skipped.values())
    return f"{text}; {count(abs(missing))} not accounted for" if missing else text


def _sets(sets: list[Record]) -> Html | None:
    """What the run draws of each of several data sets that are mixed."""
    if not sets:
        return None
    names = ("rows", "drawn", "used", "repeated", "left")
    rows: list[list[Any]] = [
        [element("code", one["path"]), f"{one['share']:.1%}", *(count(one[name]) for name in names)] for one in sets
    ]
    head = ["Data set", "Share of an epoch", "Rows", "Draws", "Used", "Repeats", "Never drawn"]
    return table(head, rows, caption="Data sets mixed, over all planned steps", numeric={1, 2, 3, 4, 5, 6})


def _balance(labels: dict[str, int]) -> Html | None:
    """Bars are full at the most frequent label, so that a balance of many labels can be seen too."""
    total = sum(labels.values())
    if not total:
        return None
    ordered = sorted(labels.items(), key=lambda pair: -pair[1])
    kept, rest = ordered[:SHOWN_LABELS], ordered[SHOWN_LABELS:]
    rows: list[list[Any]] = [
        [
            name,
            count(rows),
            share(rows, total),
            bar(f"{name}: {share(rows, total)} of the labels", rows / ordered[0][1]),
        ]
        for name, rows in kept
    ]
    balance = table(["Label", "Rows", "Share", "Balance"], rows, caption="Balance of the labels", numeric={1, 2})
    if not rest:
        return balance
    more = f"{len(rest)} more labels, with {count(rest[-1][1])} to {count(rest[0][1])} rows each."
    return join(balance, element("p", more, class_="more"))


def findings(folder: RunFolder) -> Html:
    """What the checks said, errors first; a sentence where they found nothing."""
    found = (folder.result or {}).get("findings") or []
    return findings_list(found) if found else element("p", "The checks found nothing to report.", class_="none")


def findings_list(found: list[Record]) -> Html:
    order = list(SEVERITIES)
    ranked = sorted(found, key=lambda finding: order.index(finding.get("severity", "note")))
    groups = groupby(ranked, key=lambda finding: finding.get("severity", "note"))
    return join([_group(severity, list(members)) for severity, members in groups])


def _group(severity: str, members: list[Record]) -> Html:
    items = [_finding(finding) for finding in members]
    return join(
        element("h3", f"{SEVERITIES[severity]} ({len(members)})"), element("ul", items, class_=f"findings {severity}")
    )


def _finding(finding: Record) -> Html:
    parts = [element("p", element("code", finding["where"]), " ", finding["what"], class_="what")]
    if finding.get("why"):
        parts.append(element("p", "Why it matters: ", finding["why"]))
    if finding.get("mend"):
        parts.append(element("p", "To mend it: ", finding["mend"]))
    return element("li", *parts, element("p", element("code", finding["code"]), class_="code"))
