"""The model as it came: its metrics and answers before training, measured once and kept.

Runs that begin with the very same model share them: the key is the rows and the model's own outputs on some of them,
bit for bit. A method whose start changes what the model computes (a random prompt) gets its own.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from luthier.engine.cache import rows_hash
from luthier.engine.parallel import Processes
from luthier.runs.folder import write_json
from luthier.runs.predictor import Predictor
from luthier.runs.prepared import Prepared
from luthier.runs.result import SAMPLES

# Rows whose outputs tell one model from another: a number more or less in any weight shows in their last bits.
PROBED = 8


def measure_before(prepared: Prepared, predictor: Predictor, folder: Path, processes: Processes) -> dict[str, Any]:
    """Metrics and answers of the model as it came; found where this run or another one made them."""
    path = folder / "before.json"
    shared = None if path.is_file() else _shared(prepared, predictor, processes)
    found = [place for place in (path, shared) if place and place.is_file()]
    known = processes.agree(found[0].read_text(encoding="utf-8") if found else "")
    if known:
        if processes.main:
            write_json(path, json.loads(known))
        return json.loads(known)
    before: dict[str, Any] = {"metrics": None, "samples": []}
    has_head = prepared.adaptation.solve is None  # a classifier that is fitted afterwards has no before
    if prepared.evaluation.rows and has_head:
        before["metrics"] = predictor.judged(prepared.evaluation.rows)
    if processes.main:
        if has_head:
            before["samples"] = predictor.alone().samples(prepared.evaluation, SAMPLES)
        for place in filter(None, (path, shared)):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, before)
    processes.barrier()
    return before


def _shared(prepared: Prepared, predictor: Predictor, processes: Processes) -> Path | None:
    """The file of all runs in this `out` that begin so; None where there is nothing to share."""
    rows = prepared.evaluation.rows
    if not processes.main or prepared.adaptation.solve is not None or not rows:
        return None
    outputs = predictor.alone().row_outputs(rows[:PROBED])
    task = prepared.resolved.recipe.task
    told = repr((version("luthier"), task, SAMPLES, rows_hash(rows), outputs))
    key = hashlib.sha256(told.encode()).hexdigest()[:32]
    return Path(prepared.resolved.recipe.out) / ".cache" / f"before-{key}.json"
