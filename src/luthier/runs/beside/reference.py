"""What preferences are held to: the log-probabilities of the answers under the model as it came.

They are computed once, before the first step, and kept in ``.cache`` under the model's weights and the rows: whatever
trains later, they stay what they are to the bit. Where a method can be switched off they may be read each time instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.engine.cache import cached_once, rows_hash
from luthier.engine.parallel import Processes
from luthier.evaluate.outputs import Reader
from luthier.models.backbone import Backbone
from luthier.models.frozen import Frozen
from luthier.objectives.preference import REFERENCE, PreferenceObjective
from luthier.runs.prepared import Prepared
from luthier.types import Adaptation, Features, Finding

BASE = "base"


def bind_reference(objective: Any, adaptation: Adaptation, name: str) -> list[Finding]:
    """Where the reference is to be read each time: the model with its method switched off."""
    if not _compares(objective) or objective.options.reference != "switched" or not adaptation.parameters:
        return []
    if adaptation.base is None or joins_anew(objective.backbone, adaptation):
        what = f"`{adaptation.method}` changes the weights themselves: there is nothing to switch off"
        if adaptation.base is not None:
            what = "what joins the two towers is new and trains: the reference would change with it"
        mend = "leave it out: the reference is then computed once, before training"
        return [Finding("prefer.reference", f"{name}.reference", what, mend)]
    objective.reference = Frozen(objective.backbone, BASE, objective.fingerprint, base=adaptation.base)
    return []


def joins_anew(backbone: Backbone, adaptation: Adaptation) -> bool:
    """Whether what joins two towers is new and trains: it is no part of a method that is switched off."""
    new = {id(parameter) for parameter in backbone.joining_parameters().values()}
    return any(id(parameter) in new for parameter in adaptation.parameters.values())


@dataclass
class Later:
    """The model as it came, opened once it is asked: rows that are judged after a run bring no reference."""

    open: Callable[[], Backbone]
    found: Frozen | None = None

    @contextmanager
    def reading(self) -> Iterator[Backbone]:
        if self.found is None:
            self.found = Frozen(self.open(), BASE, "")
        with self.found.reading() as backbone:
            yield backbone


def refer_later(objective: Any, open_base: Callable[[], Backbone]) -> None:
    """For an objective that compares and is used after its run."""
    if _compares(objective):
        objective.reference = Later(open_base)


def share_reference(old: Any, new: Any) -> None:
    """For an objective that reads the same rows with another model."""
    if _compares(old):
        new.reference = old.reference


def give_references(prepared: Prepared, processes: Processes) -> None:
    """Give every row of all sides its reference, computed now or found on disk."""
    if not keeps_reference(prepared.objective):
        return
    for side in (prepared.train, prepared.evaluation, prepared.selection):
        side.rows = with_reference(prepared, side.rows, processes) if side.rows else side.rows


def with_reference(prepared: Prepared, rows: list[Features], processes: Processes | None = None) -> list[Features]:
    """The rows with their reference; kept on disk where ``processes`` are given, as for a run."""
    if not keeps_reference(prepared.objective) or all(REFERENCE in row for row in rows):
        return rows
    if processes is None:
        made = _read(prepared, rows)
    else:
        folder = Path(prepared.resolved.recipe.out) / ".cache"
        made = cached_once(folder, _key(prepared, rows), lambda: _read(prepared, rows), processes)
    return [row | {REFERENCE: logs_n} for row, logs_n in zip(rows, made, strict=True)]


def _compares(objective: Any) -> bool:
    return isinstance(objective, PreferenceObjective) and objective.compares


def keeps_reference(objective: Any) -> bool:
    """Whether its rows carry the reference's log-probabilities."""
    return _compares(objective) and (objective.reference is None or objective.options.reference == "before")


def _read(prepared: Prepared, rows: list[Features]) -> list[Any]:
    """The log-probability of each supervised token of each row, with the method off where it can be switched."""
    recipe = prepared.resolved.recipe
    reader = Reader(prepared.backbone, int(recipe.micro_tokens or 0), recipe.precision, str(recipe.matmul))
    base = prepared.adaptation.base
    off: AbstractContextManager[Any] = base() if base is not None else nullcontext()
    with off:
        return reader.outputs(prepared.objective.reader, rows)


def _key(prepared: Prepared, rows: list[Features]) -> str:
    """A method that moves the start and can't be switched off has a reference of its own."""
    resolved, told = prepared.resolved, [prepared.objective.fingerprint, rows_hash(rows)]
    told += [str(resolved.recipe.precision), str(resolved.recipe.packing)]
    if prepared.adaptation.base is None and not resolved.methods.whole:
        told.append(resolved.hash)
    return f"reference-{hashlib.sha256('|'.join(told).encode()).hexdigest()[:32]}"
