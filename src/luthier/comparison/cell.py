"""One cell of a comparison, in a process of its own: ``python -m luthier.comparison.cell CELL``.

``CELL/spec.json`` says what to run; ``CELL/cell.json`` is what came of it, written last. Peak memory is a process's
own, and what crashes takes nothing else with it. When the parent is gone, however it went, the run saves and ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from luthier.types import Refused

TWIN_S = 60


def main(folder: Path) -> int:
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _wait_for_a_dying_twin(folder)
    began = time.monotonic()
    try:
        told = run(spec)
    except Refused as refused:
        print(refused, flush=True)
        told = {"status": "refused", "findings": [vars(finding) for finding in refused.findings]}
    if told is None:
        return 143
    from luthier.runs.folder import write_json

    write_json(folder / "cell.json", told | {"wall_seconds": round(time.monotonic() - began, 2)})
    return 0


def run(spec: dict[str, Any]) -> dict[str, Any] | None:
    """Train, and measure what came of it; None where it was asked to stop."""
    from luthier.comparison.measure import steps_on_selection, weights_mb
    from luthier.reports.console import Console
    from luthier.runs.conduct import tune

    run = tune(spec["recipe"], console=Console())
    if not run.finished:
        return None
    result, recipe = run.result, run.resolved.recipe
    trained = bool(result["steps"])
    told = {
        "status": "finished",
        "run": run.folder.name,
        "metric": result["metric"],
        "higher_is_better": result["higher_is_better"],
        "learning_rate": recipe.learning_rate if trained else None,
        **{key: result[key] for key in ("before", "after", "trainable", "parameters", "steps", "best_step", "stopped")},
        **{key: result[key] for key in ("seconds", "peak_memory_mb", "data")},
        "final": recipe.final,
        "weights_mb": weights_mb(run.folder / "final"),
        "chosen_on": [record.get(result["metric"]) for record in steps_on_selection(run)],
        "machine": run.info["machine"],
        "versions": run.info["versions"],
    }
    return told | _measured(run, spec) if spec["measure"] else told


def _measured(run: Any, spec: dict[str, Any]) -> dict[str, Any]:
    from luthier.comparison.forgetting import Retention
    from luthier.comparison.measure import Finished

    finished = Finished.open(run)
    base = finished.base()
    told = finished.outcomes() | {"inference": finished.inference(base)}
    if spec["retention"]:
        cache = Path(spec["recipe"]["out"]) / ".cache"
        told["retention"] = finished.retention(Retention(spec["retention"], spec["recipe"]["task"]), base, cache)
    return told


def _wait_for_a_dying_twin(folder: Path) -> None:
    """Where the last parent was killed, its child may still be saving."""
    from luthier.engine.checkpoint import lock

    for _ in range(TWIN_S * 2):
        try:
            with lock(folder):
                return
        except Refused:
            time.sleep(0.5)


def _end_with_the_parent() -> None:
    """The parent holds the other end of standard input and never writes: it ends when the parent does."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
