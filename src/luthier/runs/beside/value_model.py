"""A value model of weights of its own (`ppo.value: model`): it trains whole, beside whatever the policy trains.

It begins as the policy's base as it came, with a new head, or as a finished run that `ppo.value_from` names: of
`reward`, with what it adapted folded in, or the value model of another PPO. That may be of another base, a smaller one,
if its tokenizer gives each token the same id. It is saved as a `reward` run by `full` is: a classifier with one output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.methods.by_role import ByRole
from luthier.methods.common import CONFIG, read_adapter, save_whole
from luthier.models.apart import Apart, apart
from luthier.models.backbone import Backbone
from luthier.models.load import load
from luthier.recipe import ResolvedRecipe
from luthier.runs.beside.teacher import same_words
from luthier.runs.run import Run
from luthier.types import Finding, Refused

WHOLE, NEEDS = "model", "sequence_logits"
KEY, FROM = "ppo.value", "ppo.value_from"
TOLD = {"num_labels": 1, "id2label": {0: "value"}, "label2id": {"value": 0}, "problem_type": "regression"}


def begin_whole(
    policy: Backbone, resolved: ResolvedRecipe, run: Run | None, opens: Callable[..., Any], *, sketched: bool
) -> Apart:
    """``opens`` opens a model, or a sketch of one. Raises Refused where it can't be read beside the policy."""
    recipe = resolved.recipe
    if policy.pictures is not None or policy.sounds is not None or policy.encoder_decoder:
        what = "a whole value model reads text alone, by a decoder, and this model reads or writes in another way"
        raise Refused(Finding("reinforce.value", KEY, what, "use `value: adapter` or `value: head`"))
    try:
        found = _copy(policy, resolved, opens) if run is None else _of_run(run, opens, sketched=sketched)
    except Refused as refused:
        where = FROM if run else KEY
        raise Refused(*[replace(one, code="reinforce.value", where=where) for one in refused.findings]) from None
    found.place(policy.device)
    _fits(found, policy, int(recipe.max_length or 0), FROM if run else KEY)
    found.choose_layout(recipe.packing)
    if recipe.gradient_checkpointing:
        found.model.gradient_checkpointing_enable({"use_reentrant": False})
    return apart(policy, found)


def save_whole_value(value: Apart, folder: Path) -> None:
    """As ``AutoModelForSequenceClassification.from_pretrained`` opens it, with its tokenizer."""
    assert value.inner is not None
    save_whole(value.inner)(folder)
    value.inner.save_readers(folder)


def open_whole(policy: Backbone, folder: Path, resolved: ResolvedRecipe) -> Apart:
    """That of a finished run."""
    found = _saved(folder, load)
    found.place(policy.device)
    found.choose_layout(resolved.recipe.packing)
    return apart(policy, found)


def _copy(policy: Backbone, resolved: ResolvedRecipe, opens: Callable[..., Any]) -> Backbone:
    """The policy's base as it came, with a new head."""
    model, seed = resolved.recipe.model, resolved.recipe.seed
    found: Backbone = opens(
        policy.name, policy.path, NEEDS, revision=model.revision, config=dict(TOLD), dtype="float32", seed=seed,
        init=model.init,
    )  # fmt: skip
    found.tokenizer = policy.tokenizer
    return found


def _saved(folder: Path, opens: Callable[..., Any]) -> Backbone:
    found: Backbone = opens(str(folder), str(folder), NEEDS, config=dict(TOLD), dtype="float32")
    return found


def _of_run(run: Run, opens: Callable[..., Any], *, sketched: bool) -> Backbone:
    task, final = run.info["task"], run.folder / "final"
    folder = final if task == "reward" else final / "value"
    if not run.finished or task not in ("reward", "reinforce") or not folder.is_dir():
        what = f"{run.folder} is a run of `{task}` that is {run.info['status']}, and has no value model"
        raise Refused(Finding("", "", what, "name a finished run of `reward`, or of PPO"))
    if any(folder.glob("model*.safetensors")):
        return _saved(folder, opens)
    if (folder / CONFIG).is_file() and read_adapter(folder)[0]["peft_type"] == "WEIGHTS" and task == "reinforce":
        what = f"the value model of {run.folder} is a head on the hidden states of its policy"
        raise Refused(Finding("", "", what, "name a run of `reward`, or of PPO with a value model of its own"))
    base = run.info["model"]
    if sketched:  # what is folded in changes no size
        return _saved_base(base, opens)
    return _folded(run, folder, opens)


def _saved_base(base: dict[str, Any], opens: Callable[..., Any]) -> Backbone:
    found: Backbone = opens(base["name"], base["path"], NEEDS, config=dict(TOLD), dtype="float32")
    return found


def _folded(run: Run, folder: Path, opens: Callable[..., Any]) -> Backbone:
    """The base with what the run adapted in its weights. Raises Refused where that is not linear, or the base is
    another one by now."""
    methods, base = run.resolved.methods, run.info["model"]
    if isinstance(methods, ByRole):
        what = f"{run.folder} adapted its model part by part"
        raise Refused(Finding("", "", what, "name a run by `full` or `lora`"))
    if findings := methods.unmergeable():
        raise Refused(*findings)
    found = _saved_base(base, opens)
    if base.get("fingerprint", found.fingerprint) != found.fingerprint:
        what, mend = f"the model that {run.folder} adapted is another one by now", f"restore {base['path']}"
        raise Refused(Finding("", "", what, mend))
    methods.attach(found, folder)
    methods.fold(found)
    return found


def _fits(found: Backbone, policy: Backbone, longest: int, where: str) -> None:
    """Raises Refused with all that keeps it from reading the policy's rows."""
    findings = []

    def tell(what: str, mend: str) -> None:
        findings.append(Finding("reinforce.value", where, what, mend))

    if not found.causal or found.reads != "last":
        tell("a value is read at a token from those before it, which this model can't do", "name one of a decoder")
    if not same_words(found, policy):
        ours, theirs = policy.tokenizer.get_vocab(), found.tokenizer.get_vocab()
        other = [token for token, at in ours.items() if theirs.get(token) != at]
        what = f"{len(other):,} of the policy's {len(ours):,} tokens have another id, or none, in its tokenizer"
        tell(f"{what} (first: {other[0]!r})", "name a run of a model with the policy's tokenizer")
    if found.max_positions and found.max_positions < longest:
        mend = f"set `max_length` to {found.max_positions} at most"
        tell(f"it has {found.max_positions} positions, and rows are up to {longest} tokens long", mend)
    if findings:
        raise Refused(*findings)
