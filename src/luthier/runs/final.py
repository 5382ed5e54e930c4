"""Open a finished run's model in a fresh process: the way back from ``final/`` to a Predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from luthier.evaluate.outputs import MICRO_TOKENS, Reader
from luthier.methods.members import other_base
from luthier.models.audio.ears import hears, own_letters
from luthier.models.backbone import Backbone
from luthier.models.joined.registered import register_composed
from luthier.models.load import load, unreadable
from luthier.models.locate import locate, weight_findings
from luthier.objectives import objective_class
from luthier.recipe import ResolvedRecipe
from luthier.runs.beside.critic import open_value
from luthier.runs.beside.reference import refer_later
from luthier.runs.beside.scoring import bind_scores
from luthier.runs.composing import locate_model, open_base
from luthier.runs.finding.embedder import load_own
from luthier.runs.finding.passages import Passages
from luthier.runs.online.rollouts import judged_by
from luthier.runs.pixels import warn_of_others
from luthier.runs.predictor import Predictor
from luthier.tasks import TASKS
from luthier.tasks.common import Keeps
from luthier.types import Finding, Refused


def open_final(final: Path, resolved: ResolvedRecipe, base: dict[str, Any]) -> Predictor:
    """``base``: the model that it was trained from, as run.json tells it. Raises Refused when that is gone, damaged or
    another one by now."""
    recipe, methods = resolved.recipe, resolved.methods
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = TASKS.load(recipe.task).Task(resolved.task_options)
    findings = weight_findings(final, final.glob("**/*.safetensors"))
    path = str(final)
    if not findings and not methods.whole:
        path, findings = _began_with(resolved, base)
    if findings:
        raise Refused(*findings)
    config = _saved(final)
    task.from_config(config)
    if isinstance(task, Keeps):
        task.recall(final)
    dtype = "bfloat16" if recipe.precision == "bf16" and not methods.whole else "float32"
    kind = objective_class(str(recipe.objective), task.objective())
    needs = methods.needs(kind.needs)
    backbone = load(
        recipe.model.name, path, needs, config=task.config(), dtype=dtype, revision=recipe.model.revision,
        image_backend=recipe.image_backend,
    )  # fmt: skip
    warn_of_others(recipe.image_backend, backbone)
    plain = not methods.whole and not methods.load_kwargs()
    if plain and base.get("fingerprint", backbone.fingerprint) != backbone.fingerprint:
        raise Refused(other_base(final, base["name"], backbone))
    _give_words(backbone, config, final)
    backbone.place(device)
    backbone.choose_layout(recipe.packing)
    solved = None if methods.whole else methods.attach(backbone, final)
    backbone.model.eval()
    objective = kind(resolved.objective_options, backbone, None)
    objective.encoder = task.encoder(
        backbone, recipe.max_length or 2048, "split" if recipe.overlong == "split" else "truncate"
    )
    judged_by(objective, task, backbone)
    open_value(objective, resolved, final)
    bind_scores(task, resolved, backbone)
    load_own(objective, final)
    refer_later(objective, lambda: _base(resolved, base, backbone))
    precision = "fp32" if device.type == "cpu" and recipe.precision != "bf16" else str(recipe.precision)
    matmul = str(recipe.matmul) if device.type == "cpu" else "default"
    reader = Reader(backbone, micro_tokens=MICRO_TOKENS[device.type], precision=precision, matmul=matmul)
    pooling = solved.settings["pooling"] if solved is not None else ""
    return Predictor(task, backbone, objective, reader, solved, pooling, Passages.of(resolved, task))


def _base(resolved: ResolvedRecipe, base: dict[str, Any], tuned: Backbone) -> Backbone:
    """The model that a run began with, beside the one that it left. Raises Refused where it is gone or another."""
    path, findings = _began_with(resolved, base)
    if findings:
        raise Refused(*findings)
    dtype = "bfloat16" if resolved.recipe.precision == "bf16" else "float32"
    found = open_base(resolved, path, tuned, dtype=dtype)
    if base.get("fingerprint", found.fingerprint) != found.fingerprint:
        raise Refused(other_base(Path(path), base["name"], found))
    return found


def _began_with(resolved: ResolvedRecipe, base: dict[str, Any]) -> tuple[str, list[Finding]]:
    """Where the model lies that a run began with: as its recipe says, or, moved since, where it was then."""
    path, findings = locate_model(resolved)
    return locate(base["path"], resolved.base) if findings else (path, findings)


def _saved(final: Path) -> Any:
    """The config of a final model."""
    register_composed()
    try:
        return AutoConfig.from_pretrained(final, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise Refused(unreadable(str(final), error)) from None


def _give_words(backbone: Backbone, config: Any, final: Path) -> None:
    """The tokenizer, or the letters, that were saved beside a final model of this config."""
    try:
        if hears(config):
            backbone.tokenizer = own_letters(final) or backbone.tokenizer
        elif backbone.reads_text:
            backbone.tokenizer = AutoTokenizer.from_pretrained(final, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise Refused(unreadable(str(final), error)) from None
