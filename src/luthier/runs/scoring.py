"""A finished run of `reward` as a reward of written answers.

Where it is a LoRA of the very model that is tuned, its adapter and head stand in the same weights: an RLHF run by LoRA
holds one copy of them. Any other is opened beside it, frozen. Either reads prompt and answer as it was trained to, with
its own tokenizer and template, and its score is that of the last real token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import AutoTokenizer

from luthier.evaluate.outputs import Reader
from luthier.methods.beside import holds_beside, open_beside
from luthier.methods.common import CONFIG, read_adapter
from luthier.models.backbone import Backbone
from luthier.models.scored import scored
from luthier.objectives import objective_class
from luthier.recipe import ResolvedRecipe
from luthier.runs.critic import HEAD, find_run
from luthier.runs.predictor import Predictor
from luthier.runs.run import Run
from luthier.tasks import TASKS
from luthier.types import INLINE, Example, Finding, Message, Refused

KEY = "reinforce.rewards"


def bind_scores(task: Any, resolved: ResolvedRecipe, backbone: Backbone, *, shared: bool = True) -> list[Finding]:
    """Open the reward models that the recipe names, for a task that has some; and what is wrong with them.

    ``shared``: an adapter of the same base is put into the model that is tuned.
    """
    if resolved.recipe.task != "reinforce":
        return []
    findings: list[Finding] = []
    for number, name in enumerate(task.reward_models):
        try:
            task.scorers[name] = Scorer(_open(name, f"reward{number}", resolved, backbone, shared))
        except Refused as refused:
            findings += [Finding("reinforce.reward-model", KEY, one.what, one.mend) for one in refused.findings]
    return findings


def digest(task: Any, resolved: ResolvedRecipe) -> str:
    """sha256 of the weights of the reward models that a run is rewarded by; empty where there is none."""
    names = task.reward_models if resolved.recipe.task == "reinforce" else []
    found = hashlib.sha256()
    for name in names:
        for path in sorted((find_run(name, resolved) / "final").rglob("*.safetensors")):
            found.update(path.read_bytes())
    return found.hexdigest() if names else ""


class Scorer:
    """Called as any function that rewards: see ``evaluate/rewards.py``."""

    def __init__(self, predictor: Predictor):
        self.predictor = predictor

    def __call__(
        self, prompts: Sequence[list[Message]], answers: Sequence[str], expected: Sequence[str]
    ) -> list[float]:
        asked = [
            Example(INLINE, messages=prompt, chosen=[{"role": "assistant", "content": answer}])
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return [float(output["score"]) for output in self.predictor.outputs(asked)]


def _open(name: str, adapter: str, resolved: ResolvedRecipe, backbone: Backbone, shared: bool) -> Predictor:
    run = Run(find_run(name, resolved))
    if run.info["task"] != "reward" or not run.finished:
        what = f"{name} is a run of `{run.info['task']}` that is {run.info['status']}"
        raise Refused(Finding("reinforce.reward-model", KEY, what, "name a finished run of `reward`"))
    recipe, ours = resolved.recipe, run.resolved
    same = run.info["model"].get("fingerprint") == backbone.fingerprint
    if not (shared and same and holds_beside(resolved.methods) and _fits(run)):
        predictor = run.predictor
        predictor.backbone.model.requires_grad_(False)
        return predictor
    final = run.folder / "final"
    beside = open_beside(backbone, final, adapter)
    head = nn.Linear(backbone.width, 1, bias=False)
    head.weight.data = beside.head[HEAD].float().clone()
    for parameter in (*beside.parameters.values(), head.weight):
        parameter.requires_grad_(False)
    read = scored(backbone, head, beside.using)
    read.tokenizer = AutoTokenizer.from_pretrained(final, trust_remote_code=False)
    task = TASKS.load("reward").Task(ours.task_options)
    objective = objective_class(str(ours.recipe.objective), task.objective())(ours.objective_options, read, None)
    objective.encoder = task.encoder(read, ours.recipe.max_length or 2048, "truncate")
    reader = Reader(read, int(recipe.micro_tokens or 4096), recipe.precision, str(recipe.matmul or "default"))
    return Predictor(task, read, objective, reader)


def _fits(run: Run) -> bool:
    """A LoRA whose head is one matrix on the last token's hidden state."""
    final = run.folder / "final"
    if not (final / CONFIG).is_file() or not holds_beside(run.resolved.methods):
        return False
    heads = [name for name in read_adapter(final)[1] if ".lora_" not in name]
    return len(heads) == 1 and heads[0].endswith(f".{HEAD}")
