"""L: the loss. One file per objective, one line here.

An objective module has ``Options`` and ``Objective``: ``encode(example) -> Features``, ``collate(features) -> Batch``,
``loss(backbone, batch) -> LossTerms``. It declares what it ``needs`` of a model and whether it ``couples`` the rows
of a batch. It never asks which method is in force.
"""

from typing import Any

from luthier.registry import Registry
from luthier.types import Finding, Refused

OBJECTIVES = Registry(
    next_token="luthier.objectives.next_token",
    classification="luthier.objectives.classification",
    multi_label="luthier.objectives.multi_label",
    regression="luthier.objectives.regression",
    chunk_regression="luthier.objectives.chunk_regression",
    binned_actions="luthier.objectives.binned_actions",
    action_tokens="luthier.objectives.action_tokens",
    flow_matching="luthier.objectives.flow_matching",
    ctc="luthier.objectives.ctc",
    tags="luthier.objectives.tags",
    span="luthier.objectives.span",
    contrastive="luthier.objectives.contrastive",
    image_text="luthier.objectives.image_text",
    distill="luthier.objectives.distill",
    dpo="luthier.objectives.dpo",
    ipo="luthier.objectives.ipo",
    simpo="luthier.objectives.simpo",
    orpo="luthier.objectives.orpo",
    cpo="luthier.objectives.cpo",
    kto="luthier.objectives.kto",
    bradley_terry="luthier.objectives.bradley_terry",
    stepwise="luthier.objectives.stepwise",
    grpo="luthier.objectives.grpo",
    ppo="luthier.objectives.ppo",
)
PREFERENCES = ("dpo", "ipo", "simpo", "orpo", "cpo", "kto")
"""Those by which a model that writes learns from judged answers."""
ONLINE = ("grpo", "ppo")
"""Those on the answers that a model writes itself as it learns."""
ACTIONS = ("chunk_regression", "binned_actions", "action_tokens", "flow_matching")
"""Those by which chunks of actions are learned; which of them, the task is told: its head is another."""
KINDS = (PREFERENCES, ("bradley_terry", "stepwise"), ONLINE, *((one,) for one in ACTIONS))
"""Objectives whose rows no other objective reads."""


def objective_class(name: str, own: str) -> Any:
    """The class of an objective. ``own`` is the task's: what a teacher is compared in. Raises Refused."""
    kinds = [next((at for at, kind in enumerate(KINDS) if one in kind), None) for one in (name, own)]
    if kinds[0] != kinds[1] and name != "distill":
        what = f"`{name}` does not read the rows of a task whose own objective is `{own}`"
        tasks = (
            dict.fromkeys(PREFERENCES, "prefer") | dict.fromkeys(ONLINE, "reinforce") | dict.fromkeys(ACTIONS, "act")
        )
        mend = f"leave `objective: {name}` out" + (f", or use it with `task: {tasks[name]}`" if name in tasks else "")
        raise Refused(Finding("recipe.combination", "objective", what, mend))
    module = OBJECTIVES.load(name)
    return module.over(own) if name == "distill" else module.Objective
