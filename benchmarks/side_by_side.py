"""Two sides of a comparison, each in a process of its own, one after the other: scores, wall and processor time.

A benchmark gives its cells (JSON) and `measure(cell) -> {"score", "train_rows", "test_rows", "steps"}`; called with
`--cell` it measures one and prints it, called without it runs those that are not in its result file yet.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
PACKAGES = ("luthier", "torch", "transformers", "seqeval", "sacrebleu", "rouge-score")

Cell = dict[str, Any]


def conduct(name: str, cells: list[Cell], measure: Callable[[Cell], dict[str, Any]]) -> None:
    if sys.argv[1:2] == ["--cell"]:
        print("\n" + json.dumps(_timed(json.loads(sys.argv[2]), measure)))
        return
    path = HERE / "results" / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"made": made(), "rows": []}
    for cell in cells:
        if any(all(row[key] == value for key, value in cell.items()) for row in found["rows"]):
            continue
        row = {**cell, **_in_a_process(cell)}
        found["rows"].append(row)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(row), flush=True)


def _timed(cell: Cell, measure: Callable[[Cell], dict[str, Any]]) -> dict[str, Any]:
    began = time.perf_counter()
    told = measure(cell)
    used = os.times()
    return told | {"seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(used.user + used.system, 1)}


def _in_a_process(cell: Cell) -> dict[str, Any]:
    threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, sys.argv[0], "--cell", json.dumps(cell)]
    ran = subprocess.run(words, env=os.environ | threads, text=True, capture_output=True)
    if ran.returncode:
        raise SystemExit(ran.stderr[-3000:])
    return json.loads(ran.stdout.strip().rpartition("\n")[2])


def finished(run: Any) -> Any:
    """The run; ends the benchmark where it was stopped before its end (a signal, a failed step) and has no result."""
    if not run.finished:
        raise SystemExit(f"{run.folder} is {run.info['status']} and has no result: nothing of it is written down")
    return run


def made() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "threads": 1}


def starter() -> str:
    """The folder of the starter encoder."""
    from luthier.models.locate import locate

    path, findings = locate("starter:minilm", Path.cwd())
    if findings:
        raise SystemExit("\n".join(map(str, findings)))
    return path


def arguments(folder: str, **settings: Any) -> dict[str, Any]:
    """Of transformers' TrainingArguments, what is the same in every benchmark: Luthier's own defaults."""
    return {
        "output_dir": folder, "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
        "logging_steps": 50, "lr_scheduler_type": "linear", "warmup_steps": 0, "weight_decay": 0.01,
        "max_grad_norm": 1.0, **settings,
    }  # fmt: skip
