"""HTML and SVG from elements: whatever is not already `Html` is escaped, so that no row can plant markup."""

from __future__ import annotations

import html
from typing import Any

VOID = {"img", "input", "meta"}


class Html(str):
    """Text that is already HTML. Only `element` and `join` make it from what a person wrote."""


def escape(child: object) -> Html:
    return child if isinstance(child, Html) else Html(html.escape(str(child)))


def join(*children: Any, between: str = "") -> Html:
    """Children one after the other; lists are flattened, None and "" left out, plain text escaped."""
    flat: list[Html] = []
    for child in children:
        if isinstance(child, list | tuple):
            flat.append(join(*child, between=between))
        elif child is not None and child != "":
            flat.append(escape(child))
    return Html(between.join(flat))


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """``element("td", "a < b", class_="number")`` → ``<td class="number">a &lt; b</td>``.

    A trailing underscore is dropped from an attribute's name and the others become hyphens. True writes the bare
    name; None and False leave the attribute out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-").replace("viewbox", "viewBox")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'


def table(head: list[str], rows: list[list[Any]], *, caption: str, numeric: set[int] | None = None) -> Html:
    """A table with a caption for screen readers, column headers, and the first cell of a row as its header.

    ``numeric`` are the columns (from 0) that are set flush right in tabular figures.
    """
    kind = dict.fromkeys(numeric or (), "number")
    heads = [element("th", text, scope="col", class_=kind.get(at)) for at, text in enumerate(head)]
    lines = [element("tr", [_cell(at, cell, kind.get(at)) for at, cell in enumerate(row)]) for row in rows]
    parts = element("caption", caption), element("thead", element("tr", heads)), element("tbody", lines)
    return element("div", element("table", *parts), class_="scroll", role="region", aria_label=caption, tabindex="0")


def _cell(at: int, cell: Any, kind: str | None) -> Html:
    return element("th", cell, scope="row") if at == 0 else element("td", cell, class_=kind)
