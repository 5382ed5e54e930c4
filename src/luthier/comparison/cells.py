"""The cells of a comparison: what each is to run, whether it is done, and how its process is watched."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from luthier.comparison.contenders import Contender
from luthier.engine.recovery import Stop
from luthier.runs.folder import write_json

POLL_S = 0.2
# What a stopped child may take to save before it is killed.
PATIENCE_S = 60.0


@dataclass
class Cell:
    """One method under one seed (or one trial of its search), with what came of it once it has been run."""

    contender: Contender
    seed: int
    spec: dict[str, Any]
    folder: Path
    told: dict[str, Any] = field(default_factory=lambda: {"status": "left out"})

    @property
    def status(self) -> str:
        return self.told["status"]

    @property
    def done(self) -> bool:
        return self.status == "finished"


def make_cell(
    contender: Contender, seed: int, recipe: dict[str, Any], folder: Path, *, content: str, name: str,
    retention: str | None = None, measure: bool = True,
) -> Cell:  # fmt: skip
    """``content`` stands for the rows: a cell's folder carries a hash of all that its result depends on."""
    asked = {"recipe": {k: v for k, v in recipe.items() if k not in ("out", "name")}, "retention": retention}
    told = json.dumps([asked, measure, content, version("luthier")], sort_keys=True, default=str)
    full = f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    spec = {"recipe": recipe | {"out": str(folder), "name": full}, "retention": retention, "measure": measure}
    cell = Cell(contender, seed, spec, folder / full)
    found = _read(cell.folder / "cell.json")
    if found.get("status") == "finished":  # a refusal is cheap, and what crashed may work now: those are tried again
        cell.told = found
    return cell


def run_cell(cell: Cell, base: Path, stop: Stop) -> None:
    """Run it in a process of its own, where the recipe's paths begin; ``cell.told`` is what came of it."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / "cell.json").unlink(missing_ok=True)
    write_json(cell.folder / "spec.json", cell.spec)
    words = [sys.executable, "-m", "luthier.comparison.cell", str(cell.folder.absolute())]
    with (cell.folder / "log.txt").open("ab") as log:
        # A session of its own: an interrupt on the terminal reaches this process, which passes it on once.
        child = subprocess.Popen(
            words, cwd=base, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment(), start_new_session=True
        )
        code = _watched(child, stop)
    found = _read(cell.folder / "cell.json")
    if found:
        cell.told = found
    elif stop:
        cell.told = {"status": "stopped", "reason": f"{stop.signal}: saved; the same command goes on"}
    else:
        cell.told = {"status": "failed", "reason": _reason(code, cell.folder / "log.txt")}
        write_json(cell.folder / "cell.json", cell.told)


def _watched(child: subprocess.Popen[bytes], stop: Stop) -> int:
    """Its exit code. When this process is asked to stop, the child is, and may save."""
    asked = False
    while True:
        try:
            return child.wait(PATIENCE_S if asked else POLL_S)
        except subprocess.TimeoutExpired:
            if asked:
                child.kill()
            elif stop:
                child.terminate()
                asked = True


def _environment() -> dict[str, str]:
    """The package as this process has it, also where it was found by an entry of `sys.path` alone."""
    source = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH", "")
    joined = known if source in known.split(os.pathsep) else os.pathsep.join(filter(None, (source, known)))
    return os.environ | {"PYTHONPATH": joined, "PYTHONUNBUFFERED": "1"}


def _reason(code: int, log: Path) -> str:
    """How a process without a result ended, with the last line that it printed."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = f": {lines[-1].strip()[:300]}" if lines else ""
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (the system does that when memory runs out)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with exit code {code}{last}"


def _read(path: Path) -> dict[str, Any]:
    """A cell's result; {} where there is none, or a torn one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
