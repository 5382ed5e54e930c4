"""How much each fused adapter weighs in each layer, on the rows held out."""

from __future__ import annotations

from typing import Any

from luthier.reports.figures import count
from luthier.reports.folder import RunFolder
from luthier.reports.markup import Html, element, join, table
from luthier.reports.svg import bar


def mixing(folder: RunFolder) -> Html:
    """A row a layer, a column a member; a uniform mix is 1/n everywhere. Nothing for a run that fuses none."""
    found = (folder.result or {}).get("mixing")
    if not found:
        return Html("")
    members, layers = found["members"], found["layers"]
    means = [sum(layer[at] for layer in layers) / len(layers) for at in range(len(members))]
    most = members[means.index(max(means))]
    sentence = (
        f"Mean weight of each adapter over the tokens of {count(found['rows'])} rows held out; even would be "
        f"{1 / len(members):.2f}. Over all layers {most} weighs most ({max(means):.2f}). mixing.jsonl has each row."
    )
    rows: list[list[Any]] = [[f"{at}", *(_cell(weight) for weight in layer)] for at, layer in enumerate(layers)]
    rows.append(["all", *(_cell(weight) for weight in means)])
    by_layer = table(["Layer", *members], rows, caption="Mixing weights by layer")
    return join(element("p", sentence), _by_modality(found.get("by") or [], members), by_layer)


def _by_modality(parts: list[dict[str, Any]], members: list[str]) -> Html | None:
    """A row a kind of token or of row, over all layers."""
    rows: list[list[Any]] = []
    for part in parts:
        means = [sum(layer[at] for layer in part["layers"]) / len(part["layers"]) for at in range(len(members))]
        rows.append([part["what"], count(part["rows"]), *(_cell(weight) for weight in means)])
    return table(["Over", "Rows", *members], rows, caption="Mixing weights by modality", numeric={1}) if rows else None


def _cell(weight: float) -> Html:
    return join(f"{weight:.2f}", bar(f"{weight:.2f}", weight))
