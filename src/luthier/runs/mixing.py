"""The mixture that a recipe asks for, checked, and told by data set: rows drawn, repeated and left out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from luthier.data.mixing import Mixture, by_temperature, quotas
from luthier.engine.batching import Order
from luthier.engine.cache import rows_hash
from luthier.runs.prepared import Prepared
from luthier.types import Finding


def give_mixture(prepared: Prepared) -> None:
    """How sets are mixed, and what is told of it."""
    prepared.mixture = _mixture(prepared)
    _tell(prepared)


def _mixture(prepared: Prepared) -> Mixture | None:
    """None where nothing is mixed, or where what is asked for is refused (among ``prepared.findings``)."""
    data = prepared.resolved.recipe.data
    entries = [data.train] if isinstance(data.train, str) else list(data.train)
    shares = [entry.get("share") if isinstance(entry, dict) else None for entry in entries]
    if data.temperature is None and not any(share is not None for share in shares):
        return None
    if problems := _problems(shares, data.temperature, prepared):
        prepared.findings += problems
        return None
    owner = np.array([prepared.train.examples[row["row"]].entry for row in prepared.train.rows])
    sets = [np.flatnonzero(owner == index) for index in range(len(entries))]
    if empty := [index for index, rows in enumerate(sets) if not len(rows)]:
        what = f"no row of {_path(entries[empty[0]])} is left to draw from"
        prepared.findings.append(Finding("data.mixing", "data.train", what, "leave this set out, or mend its rows"))
        return None
    sizes = [len(rows) for rows in sets]
    wanted = by_temperature(sizes, data.temperature) if data.temperature else [float(s or 0) for s in shares]
    return Mixture(sets, quotas(wanted, sum(sizes)))


def _problems(shares: list[Any], temperature: float | None, prepared: Prepared) -> list[Finding]:
    given = [share for share in shares if share is not None]
    what = mend = ""
    if temperature is not None and given:
        what, mend = "`data.temperature` and `share` say the same in two ways", "leave one of them out"
    elif len(shares) < 2:
        what, mend = "there is one data set: nothing can be mixed", "name several, or leave it out"
    elif temperature is None and len(given) < len(shares):
        what, mend = f"{len(given)} of {len(shares)} data sets have a `share`", "give each one, or none"
    elif bad := [share for share in given if not _positive(share)]:
        what, mend = (
            f"a share must be a finite number above 0, this is {bad[0]!r}",
            "leave out a set that gives no rows",
        )
    elif prepared.adaptation.solve is not None:
        what = "this method is fitted to all rows at once: none is drawn"
        mend = "leave out shares and temperature, or choose a method that is trained in steps"
    return [Finding("data.mixing", "data.train", what, mend)] if what else []


def _positive(share: Any) -> bool:
    return isinstance(share, int | float) and not isinstance(share, bool) and math.isfinite(share) and share > 0


def _path(entry: Any) -> str:
    return str(entry["path"]) if isinstance(entry, dict) else str(entry)


def _tell(prepared: Prepared) -> None:
    """A note and a line of the report for each set: what all planned steps draw of it."""
    mixture, recipe = prepared.mixture, prepared.resolved.recipe
    if mixture is None or not recipe.steps or not recipe.batch_size:
        return
    rows = prepared.train.rows
    order = Order(len(rows), recipe.batch_size, recipe.seed, rows_hash(rows), mixture)
    counts = order.counts(recipe.steps)
    told = []
    entries: Any = recipe.data.train
    for entry, indices, quota in zip(entries, mixture.sets, mixture.quotas, strict=True):
        drawn, used = int(counts[indices].sum()), int((counts[indices] > 0).sum())
        found = {"path": _path(entry), "rows": len(indices), "share": quota / len(rows), "drawn": drawn, "used": used}
        told.append(found | {"repeated": drawn - used, "left": len(indices) - used})
        what = (
            f"{found['path']}: {found['share']:.1%} of each epoch; over the run {drawn:,} draws of {len(indices):,} "
            f"rows: {used:,} used, {drawn - used:,} repeats, {len(indices) - used:,} never drawn"
        )
        prepared.findings.append(Finding("data.mixing", "data.train", what, severity="note"))
    prepared.data["train"]["sets"] = told
