"""Merged: what was trained is folded into the weights, a whole model for `from_pretrained`, without PEFT or Luthier."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.evaluate.outputs import Reader
from luthier.export.parity import compare, probes
from luthier.models.load import load
from luthier.runs.beside.reference import share_reference
from luthier.runs.final import open_final
from luthier.runs.finding.embedder import load_own, save_embedding
from luthier.runs.predictor import Predictor
from luthier.runs.run import Run
from luthier.tasks.common import Keeps
from luthier.types import Finding, Refused

# Largest difference of an output, relative to the largest output, in fp32.
BOUND = 1e-4


def export(run: Run, to: Path) -> dict[str, Any]:
    """Raises Refused where there is nothing to fold, where a method is not linear, or beyond ``BOUND``."""
    methods = run.resolved.methods
    if findings := methods.unmergeable():
        raise Refused(*findings)
    if to.exists() and to != run.folder / "merged":  # its own former export is replaced, and nothing else
        raise Refused(Finding("copy.exists", str(to), "this folder exists already", "give another with `--to`"))
    predictor = _exact(run)
    path = predictor.backbone.path
    backbone = load(path, path, predictor.backbone.needs, config=predictor.task.config())
    methods.attach(backbone, run.folder / "final")
    methods.fold(backbone)
    load_own(type(predictor.objective)(run.resolved.objective_options, backbone, None), run.folder / "final")
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    backbone.model.save_pretrained(partial)
    predictor.backbone.save_readers(partial)
    if isinstance(predictor.task, Keeps):
        predictor.task.keep(partial)
    if predictor.objective.couples:
        max_length = run.resolved.recipe.max_length
        save_embedding(predictor.task, predictor.objective, max_length, partial, "transformers")
    told = compare(predictor, _read_back(predictor, run, partial), probes(run))
    if told["relative"] > BOUND:
        shutil.rmtree(partial)
        what = f"the merged model's outputs differ by {told['relative']:.1e}, over the bound of {BOUND:.0e}"
        raise Refused(Finding("export.parity", str(to), what, "use the adapter in `final` with its base model"))
    if to.exists():
        shutil.rmtree(to)
    partial.replace(to)
    return {"folder": str(to), **told, "bound": BOUND}


def _exact(run: Run) -> Predictor:
    """The run's model in fp32, which ``BOUND`` is for: of one that ran in bf16 no two forms agree closer than bf16."""
    if run.resolved.recipe.precision != "bf16":
        return run.predictor
    recipe = run.resolved.recipe.model_copy(update={"precision": "fp32"})
    return open_final(run.folder / "final", replace(run.resolved, recipe=recipe), run.info["model"])


def _read_back(old: Predictor, run: Run, folder: Path) -> Predictor:
    """The model as it is on disk."""
    backbone = load(str(folder), str(folder), old.backbone.needs, config=old.task.config())
    backbone.choose_layout(run.resolved.recipe.packing)
    backbone.read_as(old.backbone)
    objective = type(old.objective)(run.resolved.objective_options, backbone, old.objective.encoder)
    load_own(objective, run.folder / "final")
    share_reference(old.objective, objective)
    reader = Reader(backbone, micro_tokens=old.reader.micro_tokens, matmul=old.reader.matmul)
    return replace(old, backbone=backbone, objective=objective, reader=reader)
