"""What GRPO and its kin, and PPO, make of given answers, against TRL's trainers (recorded): 1.16, and 1.12 for PPO.

The answers of one model are learned by the same model moved on a little, so that no ratio is 1 and some are clipped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.engine.accumulate import loss_of
from luthier.evaluate.outputs import Reader
from luthier.models.backbone import Backbone
from luthier.models.scored import Scored
from luthier.objectives import OBJECTIVES
from luthier.objectives.online import ADVANTAGE, OLD
from luthier.objectives.ppo import ADVANTAGES, RETURNS, VALUES
from luthier.objectives.preference import REFERENCE
from luthier.types import Batch, Features

HERE = Path(__file__).parent
sys.path += [str(HERE / "preferences"), str(HERE / "rollouts")]
import moved  # noqa: E402
import small  # noqa: E402

import tiny  # noqa: E402

GRPO, PPO = (json.loads((HERE / f"rollouts/{name}.json").read_text(encoding="utf-8")) for name in ("grpo", "ppo"))
CASES = {case["case"]: case for case in GRPO["cases"]}
OURS: dict[str, dict[str, Any]] = {
    "grpo": {}, "dr_grpo": {}, "dapo": {"epsilon_high": 0.28}, "gspo": {"epsilon": 0.02}, "rloo": {"beta": 0},
}  # fmt: skip


def backbone(seed: int, packing: str) -> Backbone:
    made = Backbone(small.build(seed), tiny.tokenizer(encoder=False), "small", "", "token_logits")
    made.choose_layout(packing)
    return made


def asked(at: int, prompt: list[int]) -> Features:
    return {"row": at, "weight": 1.0, "prompt": len(prompt), "input_ids": prompt}


def assert_gradients(model: Any, told: dict[str, Any]) -> None:
    """Every number to 1e-5 of the largest of its tensor, or of 1."""
    for name, parameter in model.named_parameters():
        if name in told["norms"]:
            assert float(parameter.grad.norm()) == pytest.approx(told["norms"][name], rel=1e-5), name
        elif name in told["gradients"]:
            expected = torch.tensor(told["gradients"][name])
            bound = 1e-5 * max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=bound, msg=name)
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("name", OURS)
def test_groups_are_learned_as_by_trl(name: str, packing: str) -> None:
    """Advantages, loss and gradient; the group's answers and rewards are TRL's, and KL to a reference."""
    case, module = CASES[name], OBJECTIVES.load("grpo")
    policy = backbone(0, packing)
    options = module.Options(loss=name, group_size=3, max_new_tokens=6, iterations=2, **{"beta": 0.3, **OURS[name]})
    objective = module.Objective(options, policy, None)
    rows: list[Features] = []
    for at in (0, 3):
        answers = [{"ids": row["answer"], "finished": True} for row in case["rows"][at : at + 3]]
        rows += objective.learned(asked(at, case["rows"][at]["prompt"]), answers, GRPO["rewards"][at : at + 3])
    assert [row[ADVANTAGE] for row in rows] == pytest.approx(case["advantages"], abs=1e-5)
    kinds = [(OLD, policy)] + ([(REFERENCE, backbone(1, packing))] if options.beta else [])
    for key, read in kinds:
        logs = Reader(read, 4096).outputs(objective.reader, rows)
        rows = [row | {key: one} for row, one in zip(rows, logs, strict=True)]
    moved.on(policy.model)
    terms, _ = loss_of(policy, objective, rows, "fp32")
    assert float(terms.total.detach()) / terms.count == pytest.approx(case["loss"], rel=1e-5, abs=1e-6)
    assert terms.report["clip_fraction"][0] > 0 or name == "rloo"
    (terms.total / terms.count).backward()
    assert_gradients(policy.model, case)


class Valued(Scored):
    """TRL's value model, of its own weights: not what Luthier trains, but what the loss reads."""

    def hidden(self, batch: Batch) -> Tensor:
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids") if key in batch.tensors}
        return self.model.model(**inputs, use_cache=False).last_hidden_state.flatten(0, 1)


def test_a_trajectory_is_learned_as_by_trl() -> None:
    """Log-probabilities, values, rewards, returns, whitened advantages; then both losses, and the gradients of policy
    and value model."""
    module, made, told = OBJECTIVES.load("ppo"), PPO["made"], PPO["moved"]
    policy, reference = backbone(0, "off"), backbone(1, "off")
    options = module.Options(
        beta=0.3, gamma=0.97, lam=0.9, value_weight=0.4, epsilon=0.1, value_clip=0.15, temperature=0.7, max_new_tokens=5
    )
    objective = module.Objective(options, policy, None)
    classifier = small.build(3, scores=True)
    shared = {**vars(policy), "model": classifier, "needs": "sequence_logits"}
    fields = Backbone.__dataclass_fields__
    objective.value = Valued(
        **{key: value for key, value in shared.items() if key in fields}, head=classifier.score,
        using=lambda: torch.enable_grad(),
    )  # fmt: skip
    rows: list[Features] = []
    for at, (query, answer, score) in enumerate(zip(PPO["queries"], PPO["answers"], made["scores"], strict=True)):
        rows += objective.learned(asked(at, query), [{"ids": answer, "finished": False}], [score])
    for key, read in ((OLD, policy), (REFERENCE, reference)):
        logs = Reader(read, 4096).outputs(objective.reader, rows)
        rows = [row | {key: one} for row, one in zip(rows, logs, strict=True)]
    rows, _ = objective.settled(rows, Reader(policy, 4096))
    for ours, theirs in (
        (OLD, "logprobs"), (REFERENCE, "ref_logprobs"), (VALUES, "values"), (RETURNS, "returns"),
        (ADVANTAGES, "advantages"),
    ):  # fmt: skip
        found = torch.stack([row[ours].detach() for row in rows])
        torch.testing.assert_close(found, torch.tensor(made[theirs]), rtol=1e-5, atol=2e-5, msg=theirs)
    moved.on(policy.model)
    moved.on(classifier)
    terms, _ = loss_of(policy, objective, rows, "fp32")
    assert float(terms.total.detach()) / terms.count == pytest.approx(told["loss"], rel=1e-5)
    tokens = terms.report["policy_loss"][1]
    assert terms.report["policy_loss"][0] / tokens == pytest.approx(told["policy_loss"], rel=1e-5)
    assert terms.report["value_loss"][0] / tokens == pytest.approx(told["value_loss"], rel=1e-5)
    (terms.total / terms.count).backward()
    assert_gradients(policy.model, told["policy"])
    assert_gradients(classifier, told["value"])
