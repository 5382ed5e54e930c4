"""A finished run of `reward` as a reward of written answers.

Where it is a LoRA of the very model that is tuned, its adapter and head stand in the same weights: an RLHF run by LoRA
holds one copy of them. Any other is opened beside it, frozen. Either reads prompt and answer as it was trained to, with
its own tokenizer and template, and its score is that of the last real token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from transformers import AutoTokenizer

from luthier.evaluate.outputs import Reader
from luthier.methods.beside import holds_beside, open_beside
from luthier.methods.common import CONFIG, read_adapter
from luthier.models.backbone import Backbone
from luthier.models.scored import scored
from luthier.objectives import objective_class
from luthier.recipe import ResolvedRecipe
from luthier.runs.beside.critic import HEAD, find_run, head_of
from luthier.runs.predictor import Predictor
from luthier.runs.run import Run
from luthier.tasks import TASKS
from luthier.types import INLINE, Example, Finding, Message, Picture, Refused

KEY = "reinforce.rewards"


def bind_scores(task: Any, resolved: ResolvedRecipe, backbone: Backbone) -> None:
    """Give a task the reward models that the recipe names, where it has some. Each is opened once it is asked."""
    if resolved.recipe.task == "reinforce":
        for number, name in enumerate(task.reward_models):
            task.scorers[name] = Scorer(partial(_open, name, f"reward{number}", resolved, backbone))


def open_scores(task: Any, resolved: ResolvedRecipe, backbone: Backbone) -> list[Finding]:
    """The same, opened before they are asked; and what is wrong with them."""
    bind_scores(task, resolved, backbone)
    findings: list[Finding] = []
    for scorer in task.scorers.values() if resolved.recipe.task == "reinforce" else ():
        try:
            _ = scorer.predictor
        except Refused as refused:
            findings += refused.findings
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

    def __init__(self, opens: Callable[[], Predictor]):
        self.opens = opens

    @cached_property
    def predictor(self) -> Predictor:
        """Raises Refused."""
        try:
            return self.opens()
        except Refused as refused:
            found = [Finding("reinforce.reward-model", KEY, one.what, one.mend) for one in refused.findings]
            raise Refused(*found) from None

    def __call__(
        self, prompts: Sequence[list[Message]], answers: Sequence[str], expected: Sequence[str],
        shown: Sequence[Sequence[Picture]] | None = None,
    ) -> list[float] | list[list[float]]:  # fmt: skip
        """A score for each answer, to a prompt in which pictures are ``shown``; of a model that judges steps, how
        probable it is that each of them is right."""
        asked = [
            Example(
                INLINE, messages=prompt, images=[*images] or None, chosen=[{"role": "assistant", "content": answer}]
            )
            for prompt, answer, images in zip(prompts, answers, shown or [()] * len(answers), strict=True)
        ]  # fmt: skip
        return [output.get("steps") or float(output["score"]) for output in self.predictor.outputs(asked)]


def _open(name: str, adapter: str, resolved: ResolvedRecipe, backbone: Backbone) -> Predictor:
    run = Run(find_run(name, resolved))
    if run.info["task"] != "reward" or not run.finished:
        what = f"{name} is a run of `{run.info['task']}` that is {run.info['status']}"
        raise Refused(Finding("reinforce.reward-model", KEY, what, "name a finished run of `reward`"))
    recipe, ours = resolved.recipe, run.resolved
    separators = [ours.objective_options.separator] if ours.recipe.objective == "stepwise" else []
    if separators and separators != [resolved.task_options.separator]:
        what = f"{name} judges steps between {separators[0]!r}, and answers are parted at another separator here"
        mend = f"set `reinforce.separator` to {separators[0]!r}"
        raise Refused(Finding("reinforce.reward-model", KEY, what, mend))
    same = run.info["model"].get("fingerprint") == backbone.fingerprint
    reads_text_alone = backbone.pictures is None and backbone.sounds is None
    if not (same and reads_text_alone and holds_beside(resolved.methods) and _fits(run)):
        predictor = run.predictor
        predictor.backbone.model.requires_grad_(False)
        return predictor
    final = run.folder / "final"
    beside = open_beside(backbone, final, adapter)
    head = head_of(beside.head[HEAD])
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
