"""Metrics of a run: metrics.jsonl always, and the trackers that the recipe names."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from luthier.reports.folder import Record, read_lines
from luthier.types import Finding, Refused

PROJECT = "luthier"


@dataclass(frozen=True)
class Tracker:
    """A tracker that is open: ``log(values, step)`` for numbers, ``close()`` at the end."""

    log: Callable[[dict[str, float], int], Any]
    close: Callable[[], Any]


def _tensorboard(package: Any, folder: Path, name: str, config: Record) -> Tracker:
    writer = package.Writer(str(folder / "tensorboard"))

    def log(values: dict[str, float], step: int) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)
        writer.flush()

    return Tracker(log, writer.close)


def _wandb(package: Any, folder: Path, name: str, config: Record) -> Tracker:
    run = package.init(project=PROJECT, name=name, dir=str(folder), config=config)
    return Tracker(lambda values, step: run.log({**values, "step": step}), run.finish)


def _mlflow(package: Any, folder: Path, name: str, config: Record) -> Tracker:
    package.set_experiment(PROJECT)
    package.start_run(run_name=name)
    package.log_params(config)
    return Tracker(lambda values, step: package.log_metrics(values, step=step), package.end_run)


def _trackio(package: Any, folder: Path, name: str, config: Record) -> Tracker:
    package.init(project=PROJECT, name=name, config=config)
    return Tracker(lambda values, step: package.log(values, step=step), package.finish)


TRACKERS: dict[str, tuple[str, Callable[[Any, Path, str, Record], Tracker]]] = {
    "tensorboard": ("tensorboard.summary", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
    "trackio": ("trackio", _trackio),
}


class Metrics:
    """Append records to ``metrics.jsonl``, one JSON object a line, and forward their numbers to trackers.

    The first record of training or evaluation begins a new file, unless `resume` was called before. Events that come
    earlier (a checkpoint that was skipped) wait until it is known which. ``enabled=False``, for processes that
    are not the first, writes nothing.

    Raises Refused, naming every tracker at once, where one is unknown or not installed.
    """

    def __init__(
        self,
        folder: Path,
        track: Sequence[str] = (),
        *,
        enabled: bool = True,
        name: str = "",
        config: Record | None = None,
    ):
        self.path, self.enabled = folder / "metrics.jsonl", enabled
        self._file: TextIO | None = None
        self._waiting: list[Record] = []
        self._told_nan: set[Any] = set()
        self._trackers = {
            tracker: TRACKERS[tracker][1](package, folder, name or folder.name, config or {})
            for tracker, package in (load_packages(track) if enabled else {}).items()
        }

    def resume(self, step: int | None) -> None:
        """Go on after the checkpoint of ``step``: lines of later steps, and a line that a kill tore, are dropped, so
        that each step is there once. None begins a new file."""
        if self.enabled:
            self._close_file()
            truncate(self.path, step)
            self._open()

    def write(self, record: Record) -> None:
        """One record of kind train, eval or event. What is not a finite number becomes null, and an event says so."""
        if not self.enabled:
            return
        clean, lost = strict(record)
        if record.get("kind") == "event":
            self._told_nan |= {record.get("step")} if record.get("event") == "nan" else set()
            if self._file is None:
                self._waiting.append(clean)
            else:
                self._append(clean)
            return
        if self._file is None:
            self.resume(None)
        self._append(clean)
        if lost and record.get("step") not in self._told_nan:
            text = "; ".join(f"{key} was {value}" for key, value in lost.items())
            self._append({"step": record.get("step"), "kind": "event", "event": "nan", "text": text})
        self._forward(clean)

    def close(self) -> None:
        if self._waiting:
            self._open()
        self._close_file()
        for tracker in self._trackers.values():
            tracker.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> None:
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        waiting, self._waiting = self._waiting, []
        for record in waiting:
            self._append(record)

    def _close_file(self) -> None:
        if self._file:
            self._file.close()
        self._file = None

    def _append(self, record: Record) -> None:
        assert self._file is not None
        self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def _forward(self, record: Record) -> None:
        kind = record.get("kind")
        if kind not in ("train", "eval"):
            return
        numbers = {
            f"{kind}/{key}": float(value)
            for key, value in record.items()
            if key not in ("step", "kind") and isinstance(value, int | float)
        }
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.log(numbers, int(record["step"]))
            except Exception as error:  # someone else's service must not end a run: it is dropped, and the file says so
                del self._trackers[name]
                text = f"{name} failed and gets no more records: {error}"
                self._append({"step": record["step"], "kind": "event", "event": "tracker-failed", "text": text})


def load_packages(track: Sequence[str]) -> dict[str, Any]:
    """The package of each tracker named. Raises Refused with a finding for each that is unknown or missing."""
    packages, findings = {}, []
    for name in track:
        if name not in TRACKERS:
            mend = f"one of: {', '.join(TRACKERS)}"
            findings.append(Finding("track.unknown", "track", f"there is no tracker `{name}`", mend))
            continue
        try:
            packages[name] = import_module(TRACKERS[name][0])
        except ImportError as error:
            mend = f"pip install 'luthier[{name}]', or take {name} out of `track`"
            findings.append(Finding("track.missing", "track", f"the tracker `{name}` is not installed ({error})", mend))
    if findings:
        raise Refused(*findings)
    return packages


def truncate(path: Path, resumed_from: int | None) -> None:
    """Keep the whole lines up to that step; None empties the file. Crash-safe: written apart, then renamed."""
    kept = [] if resumed_from is None else [r for r in read_lines(path) if (r.get("step") or 0) <= resumed_from]
    unfinished = path.with_suffix(".jsonl.part")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(strict(record)[0], ensure_ascii=False) + "\n" for record in kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def strict(record: Record) -> tuple[Record, dict[str, str]]:
    """The record as strict JSON, and what was lost: keys whose value is NaN or infinite, with that value as text."""
    lost: dict[str, str] = {}
    return {key: _finite(value, key, lost) for key, value in record.items()}, lost


def _finite(value: Any, key: str, lost: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner, f"{key}.{name}", lost) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner, f"{key}.{at}", lost) for at, inner in enumerate(value)]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)  # also numbers of numpy and torch
    if math.isfinite(number):
        return number
    lost[key] = str(number)
    return None
