"""A run folder in use: its result, its model, its report.

A run folder holds: run.json, recipe.yaml (resolved, with provenance), metrics.jsonl, before.json, checkpoints/, final/
(the model in the ecosystem's layout, its tokenizer and its card), samples.jsonl, result.json, report.html.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.recipe import ResolvedRecipe, read_recipe
from luthier.types import Finding, Refused

if TYPE_CHECKING:
    from luthier.runs.predictor import Predictor


def read_info(path: Path) -> dict[str, Any]:
    """run.json. Raises Refused where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        mend = "restore it, or move its folder away"
        raise Refused(Finding("run.corrupt", str(path), f"this file is damaged ({error})", mend)) from None


def picture_folders(resolved: ResolvedRecipe, images: Sequence[str] = ()) -> list[Path]:
    """Where pictures are that do not lie beside the file that names them: as asked for, else as the recipe says."""
    if images:
        return [Path.cwd() / Path(one).expanduser() for one in images]
    told = resolved.recipe.data.images
    return [resolved.base / Path(one).expanduser() for one in ([told] if isinstance(told, str) else told or [])]


class Run:
    """A run folder: what it reached, and its model to predict with."""

    def __init__(self, folder: str | Path, overrides: Sequence[str] = ()):
        self.folder, self.overrides = Path(folder), list(overrides)
        path = self.folder / "run.json"
        if not path.is_file():
            runs = ", ".join(sorted(p.parent.name for p in self.folder.parent.glob("*/run.json"))[:8])
            mend = f"runs here: {runs}" if runs else "`luthier ls runs` lists the runs"
            raise Refused(Finding("run.missing", str(folder), "this is no run folder (no run.json)", mend))
        self.info = read_info(path)

    @property
    def finished(self) -> bool:
        return self.info["status"] == "finished"

    @property
    def result(self) -> dict[str, Any]:
        path = self.folder / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @cached_property
    def resolved(self) -> ResolvedRecipe:
        path, section = self.folder / "recipe.yaml", f"{self.info['task']}."
        if other := [one for one in self.overrides if not one.startswith(section)]:
            what = f"{other[0]} can't be changed after training"
            raise Refused(Finding("recipe.combination", "overrides", what, f"what can be begins with `{section}`"))
        resolved, findings = read_recipe(path, self.overrides)
        if resolved is None or (self.overrides and findings):
            raise Refused(*findings)
        return resolved

    @cached_property
    def predictor(self) -> Predictor:
        from luthier.runs.final import open_final

        if not (self.folder / "final").is_dir():
            what = f"this run is {self.info['status']}: it has no final model yet"
            raise Refused(
                Finding("run.unfinished", str(self.folder), what, "run the same `luthier tune` again to go on")
            )
        return open_final(self.folder / "final", self.resolved, self.info["model"])

    def predict(self, inputs: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
        """Answers for inputs: strings, rows, or (for chat) lists of messages."""
        return self.predictor.answers(list(inputs), **options)

    def typed(self, lines: Sequence[str]) -> list[Any]:
        """Inputs as they are typed: texts, or rows as JSON objects."""
        from luthier.runs.typed import typed_inputs

        return typed_inputs(lines, self.predictor.task.formats)

    def rows(self, path: str, images: Sequence[str] = ()) -> list[dict[str, Any]]:
        """The rows of a file, to be answered; ``images``: as of ``evaluate``. Raises Refused."""
        from luthier.runs.typed import rows_to_answer

        recipe = self.resolved.recipe.data
        return rows_to_answer(path, recipe.columns, picture_folders(self.resolved, images))

    def evaluate(self, data: str | Sequence[str], images: Sequence[str] = ()) -> dict[str, Any]:
        """The task's metrics with 95 % intervals on files of labelled rows. Raises Refused for bad rows.

        ``images``: folders of pictures that do not lie beside the file; default: those of the recipe.
        """
        from luthier.data.encode import encode
        from luthier.runs.rows import read_labelled

        paths, predictor = [data] if isinstance(data, str) else list(data), self.predictor
        passages, folders = predictor.passages, picture_folders(self.resolved, images)
        read = read_labelled(self.resolved, predictor.task, paths, Path.cwd(), passages, folders)
        findings = [*read.findings, *predictor.task.unknown(read.examples)]
        if any(finding.severity == "error" for finding in findings):
            raise Refused(*findings)
        recipe = self.resolved.recipe
        skip = recipe.data.max_bad_rows if recipe.data.on_bad_row == "skip" else None
        limit, overlong = recipe.max_length or 2048, recipe.overlong or "truncate"
        encoded = encode(predictor.objective, read.examples, limit, overlong, "data", skip)
        unusable = [one for one in encoded.findings if one.severity == "error" and one.code != "data.too-long"]
        if unusable and encoded.rows:
            raise Refused(*unusable)
        if not encoded.rows:
            raise Refused(
                *encoded.findings, Finding("data.empty", ", ".join(paths), "no row to evaluate", "give labelled rows")
            )
        metrics = predictor.judged(encoded.rows) | predictor.generated(encoded)
        found = {"passages": passages.counted("data")[0]} if passages else {}
        return {"rows": len(encoded.examples), "skipped": encoded.skipped, "metrics": metrics, **found}

    def harness(self, tasks: Sequence[str], **options: Any) -> dict[str, Any]:
        """Tasks of lm-evaluation-harness, where it is installed (see `runs/finished/harness.py`). Raises Refused."""
        from luthier.runs.finished.harness import harness

        return harness(self, tasks, **options)

    def export(self, form: str, to: str | Path | None = None) -> dict[str, Any]:
        """Write the model in another form (`merged`), and check that it gives the same outputs."""
        from luthier.export import EXPORTS

        if form not in EXPORTS:
            raise Refused(Finding("export.unknown", "form", f"unknown form {form!r}", f"one of: {', '.join(EXPORTS)}"))
        return EXPORTS.load(form).export(self, Path(to) if to else self.folder / form)


def load(run: str | Path, overrides: Sequence[str] = ()) -> Run:
    """Open a run folder. ``overrides`` change how its task answers and is measured: ``["code.run_tests=true"]``."""
    return Run(run, overrides)
