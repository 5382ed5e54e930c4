"""Merged: what was trained is folded into the weights, a whole model for `from_pretrained`, without PEFT or Luthier."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.evaluate.outputs import Reader
from luthier.export.parity import compare, probes
from luthier.models.load import load, locate
from luthier.runs.predictor import Predictor
from luthier.runs.run import Run
from luthier.types import Finding, Refused

# Largest difference of an output, relative to the largest output, in fp32.
BOUND = 1e-4


def export(run: Run, to: Path) -> dict[str, Any]:
    """Raises Refused where there is nothing to fold, where a method is not linear, or beyond ``BOUND``."""
    methods = run.resolved.methods
    if findings := methods.unmergeable():
        raise Refused(*findings)
    predictor = run.predictor
    path, findings = locate(run.resolved.recipe.model.name, run.resolved.base)
    if findings:
        path, findings = locate(run.info["model"]["path"], run.resolved.base)
    if findings:
        raise Refused(*findings)
    backbone = load(str(path), path, predictor.backbone.needs, config=predictor.task.config())
    methods.attach(backbone, run.folder / "final")
    methods.fold(backbone)
    partial = to.with_name(f".{to.name}.partial")
    backbone.model.save_pretrained(partial)
    predictor.backbone.tokenizer.save_pretrained(partial)
    told = compare(predictor, _read_back(run, partial), probes(run))
    if told["relative"] > BOUND:
        shutil.rmtree(partial)
        what = f"the merged model's outputs differ by {told['relative']:.1e}, over the bound of {BOUND:.0e}"
        raise Refused(Finding("export.parity", str(to), what, "use the adapter in `final` with its base model"))
    if to.exists():
        shutil.rmtree(to)
    partial.replace(to)
    return {"folder": str(to), **told, "bound": BOUND}


def _read_back(run: Run, folder: Path) -> Predictor:
    """The model as it is on disk."""
    old = run.predictor
    backbone = load(str(folder), str(folder), old.backbone.needs, config=old.task.config())
    backbone.choose_layout(run.resolved.recipe.packing)
    backbone.tokenizer = old.backbone.tokenizer
    objective = type(old.objective)(run.resolved.objective_options, backbone, old.objective.encoder)
    reader = Reader(backbone, micro_tokens=old.reader.micro_tokens, matmul=old.reader.matmul)
    return replace(old, backbone=backbone, objective=objective, reader=reader)
