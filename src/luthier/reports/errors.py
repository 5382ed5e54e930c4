"""The worst rows after training, and which class was taken for which."""

from __future__ import annotations

from typing import Any

from luthier.reports.figures import count
from luthier.reports.folder import Record, RunFolder
from luthier.reports.markup import Html, element, join, table
from luthier.reports.samples import sample

MATRIX = 12  # classes up to which a matrix can be read; of more, the commonest confusions are listed
LISTED = 15


def errors(folder: RunFolder) -> Html:
    """Nothing for a run that was judged on no rows."""
    rows = [sample(row | {"after": row["answer"], "marks": _loss(row)}, folder) for row in folder.errors]
    by_loss = any(_loss(row) for row in folder.errors)
    which = "that it does worst, by their loss" if by_loss else "that it gets wrong"
    told = element("p", f"The {count(len(rows))} rows held out {which}.") if rows else None
    return join(_confusion(folder.confusion), told, rows)


def _loss(row: Record) -> list[str]:
    return [] if row.get("loss") is None else [f"loss {row['loss']:.2f}"]


def _confusion(found: Record | None) -> Html:
    if not found:
        return Html("")
    wrong = [cell for cell in found["cells"] if cell[0] != cell[1]]
    missed = sum(n for _, _, n in wrong)
    sentence = f"{count(missed)} of {count(found['rows'])} rows held out were taken for another class."
    if len(found["labels"]) <= MATRIX:
        return join(element("p", sentence), _matrix(found))
    rows: list[list[Any]] = [[true, told, count(n)] for true, told, n in wrong[:LISTED]]
    head = ["Class", "Taken for", "Rows"]
    return join(element("p", sentence), table(head, rows, caption="Commonest confusions", numeric={2}))


def _matrix(found: Record) -> Html:
    """A row a true class, a column a class that it was taken for."""
    labels, counts = found["labels"], {(true, told): n for true, told, n in found["cells"]}
    rows: list[list[Any]] = [[true, *(_cell(counts, true, told) for told in labels)] for true in labels]
    head = ["Class ↓ taken for →", *labels]
    return table(head, rows, caption="Confusion of classes", numeric=set(range(1, len(head))))


def _cell(counts: dict[tuple[str, str], int], true: str, told: str) -> Html | str:
    text = count(counts.get((true, told), 0))
    return element("b", text) if true == told else text
