"""Open a finished run's model in a fresh process: the way back from ``final/`` to a Predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoTokenizer

from luthier.evaluate.outputs import Reader
from luthier.methods import METHODS
from luthier.models.load import load, locate
from luthier.objectives import OBJECTIVES
from luthier.predictor import Predictor
from luthier.prepare import MICRO_TOKENS
from luthier.tasks import TASKS
from luthier.types import Finding, Refused

if TYPE_CHECKING:
    from luthier.run import Run


def open_final(run: Run) -> Predictor:
    """Raises Refused when the base model is gone or damaged."""
    resolved, final = run.resolved, run.folder / "final"
    recipe, options = resolved.recipe, resolved.method_options
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = TASKS.load(recipe.task).Task(resolved.task_options)
    objective_module = OBJECTIVES.load(str(recipe.objective))
    config = AutoConfig.from_pretrained(final)
    task.from_config(config)
    findings: list[Finding] = []
    if options.whole:
        path = str(final)
    else:
        path, findings = locate(recipe.model.name, resolved.base)
        if findings:  # moved since: the path it was trained from may still be there
            path, findings = locate(run.info["model"]["path"], resolved.base)
    if findings:
        raise Refused(*findings)
    dtype = "bfloat16" if recipe.precision == "bf16" and not options.whole else "float32"
    needs = options.needs(objective_module.Objective.needs)
    backbone = load(recipe.model.name, path, needs, config=task.config(), dtype=dtype, revision=recipe.model.revision)
    backbone.tokenizer = AutoTokenizer.from_pretrained(final)
    solved = None if options.whole else METHODS.load(recipe.method).attach(backbone, final)
    backbone.model.to(device).eval()
    backbone.choose_layout(recipe.packing)
    objective = objective_module.Objective(resolved.objective_options, backbone, None)
    objective.encoder = task.encoder(backbone, recipe.max_length or 2048, "truncate")
    precision = "fp32" if device.type == "cpu" and recipe.precision != "bf16" else str(recipe.precision)
    matmul = str(recipe.matmul) if device.type == "cpu" else "default"
    reader = Reader(backbone, micro_tokens=MICRO_TOKENS[device.type], precision=precision, matmul=matmul)
    pooling = solved.settings["pooling"] if solved is not None else ""
    return Predictor(task, backbone, objective, reader, solved, pooling)
