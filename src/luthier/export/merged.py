"""Merged: the adapter folded into the weights, a whole model for `from_pretrained`, without PEFT."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from luthier.models.load import load, locate
from luthier.runs.run import Run
from luthier.types import Finding, Refused

# Largest difference of an output, relative to the largest output, in fp32.
BOUND = 1e-4


def export(run: Run, to: Path) -> dict[str, Any]:
    """Raises Refused where the run holds no adapter, or where the merged model differs by more than ``BOUND``."""
    if run.resolved.methods.whole or not (run.folder / "final" / "adapter_config.json").is_file():
        what = f"a `{run.info['method']}` run has nothing to merge"
        raise Refused(Finding("export.merged", str(run.folder), what, "its `final` folder is what there is to use"))
    predictor = run.predictor
    rows = _probe_rows(run)
    expected = _flat(predictor.outputs(rows))
    path, findings = locate(run.resolved.recipe.model.name, run.resolved.base)
    if findings:
        raise Refused(*findings)
    backbone = load(str(path), path, predictor.backbone.needs, config=predictor.task.config())
    merged: Any = PeftModel.from_pretrained(backbone.model, str(run.folder / "final")).merge_and_unload(safe_merge=True)
    partial = to.with_name(f".{to.name}.partial")
    merged.save_pretrained(partial)
    predictor.backbone.tokenizer.save_pretrained(partial)
    difference = _difference(run, partial, rows, expected)
    if difference > BOUND:
        shutil.rmtree(partial)
        what = f"the merged model's outputs differ by {difference:.1e}, over the bound of {BOUND:.0e}"
        raise Refused(Finding("export.parity", str(to), what, "use the adapter in `final` with its base model"))
    if to.exists():
        shutil.rmtree(to)
    partial.replace(to)
    return {"folder": str(to), "difference": difference, "bound": BOUND}


def _probe_rows(run: Run) -> list[Any]:
    task = run.predictor.task
    texts = ["A short text.", "Another one, somewhat longer than the first, to fill a few more positions."]
    examples = [task.parse(text) for text in texts]
    for example in examples:
        if example.messages is not None:
            example.messages = [*example.messages, {"role": "assistant", "content": "An answer."}]
        example.targets = ["An answer."]
    return examples


def _flat(outputs: list[Any]) -> torch.Tensor:
    """Logits of a classifier, log-likelihoods of a language model."""
    rows = [[row["nll"]] if isinstance(row, dict) else row for row in outputs]
    return torch.tensor(rows, dtype=torch.float64)


def _difference(run: Run, folder: Path, rows: list[Any], expected: torch.Tensor) -> float:
    """Of the model read back from disk, against the run's own outputs."""
    from dataclasses import replace

    from luthier.evaluate.outputs import Reader

    old = run.predictor
    backbone = load(str(folder), str(folder), old.backbone.needs, config=old.task.config())
    backbone.choose_layout(run.resolved.recipe.packing)
    backbone.tokenizer = old.backbone.tokenizer
    module = type(old.objective)
    objective = module(run.resolved.objective_options, backbone, old.objective.encoder)
    reader = Reader(backbone, micro_tokens=old.reader.micro_tokens, matmul=old.reader.matmul)
    found = _flat(replace(old, backbone=backbone, objective=objective, reader=reader).outputs(rows))
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
