"""AdaLoRA's schedule, scores and penalty on numbers that fit on paper, and what is refused of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig
from peft.tuners.adalora import SVDLinear
from torch import nn

import luthier
import tiny
from luthier.methods.rank_budget import RankBudget, Schedule


def test_the_budget_falls_on_a_cubic_curve() -> None:
    """20 steps, 4 before, 6 after: settled at 14. From 12 to 4: 4 + 8 (1 - (t - 4)/10)³, rounded down.

    t = 4: 12. t = 5: 4 + 8 · 0.729 = 9.832. t = 9: 4 + 8 / 8 = 5. t = 13: 4.008. t = 14 and after: 4.
    """
    schedule = Schedule(20, initial=4, final=6, every=3)
    assert [schedule.budget(t, 12, 4) for t in (1, 4, 5, 9, 13, 14, 20)] == [12, 12, 9, 5, 4, 4, 4]
    assert [t for t in range(1, 21) if schedule.cuts(t)] == [6, 9, 12, 14, 15, 16, 17, 18, 19, 20]


def layer(e: list[float]) -> SVDLinear:
    """Rank 2, one input, one output; A = B = 1."""
    config = AdaLoraConfig(init_r=2, target_r=1, total_step=10)
    made = SVDLinear(nn.Linear(1, 1, bias=False), "default", config, r=2, lora_alpha=2)
    with torch.no_grad():
        made.lora_E["default"].copy_(torch.tensor(e)[:, None])
        made.lora_A["default"].fill_(1.0)
        made.lora_B["default"].fill_(1.0)
    return made


def test_the_least_important_triplets_go() -> None:
    """β = ½, one step: Ī = I / 2, Ū = |I - Ī| / 2 = I / 4, so s = I² / 8.

    Gradients 1 everywhere: I of A and B is 1 in every triplet, s = 1/8 each; I of E is |e|. Scores: 1/4 + e² / 8.
    e of the first matrix (3, 1), of the second (2, 0.5): of four triplets two may stay, 3 and 2.
    """
    layers = {"one": layer([3.0, 1.0]), "two": layer([-2.0, 0.5])}
    config = AdaLoraConfig(init_r=2, target_r=1, total_step=10, beta1=0.5, beta2=0.5)
    budget = RankBudget(layers, config, Schedule(2, initial=0, final=0, every=1))
    for parameter in budget.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    assert budget.ranks() == {"one": 2, "two": 2}
    budget.after_step(1)  # 2 + 2 · (1 - ½)³ = 2.25: two of four
    assert budget.ranks() == {"one": 1, "two": 1}
    assert torch.equal(layers["one"].lora_E["default"].detach(), torch.tensor([[3.0], [0.0]]))
    assert torch.equal(layers["two"].lora_E["default"].detach(), torch.tensor([[-2.0], [0.0]]))
    pattern, tensors = budget.saved()
    assert pattern == {"one.lora_E": [True, False], "two.lora_E": [True, False]}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith("one")} == {
        "one.lora_A": (1, 1), "one.lora_E": (1, 1), "one.lora_B": (1, 1),
    }  # fmt: skip


def test_the_penalty_is_the_mean_distance_from_the_identity() -> None:
    """A = (1, 1)ᵀ: A Aᵀ is all ones, less the identity [[0, 1], [1, 0]], of norm √2; B likewise. Half of √2."""
    config = AdaLoraConfig(init_r=2, target_r=1, total_step=10, orth_reg_weight=0.5)
    budget = RankBudget({"one": layer([1.0, 1.0])}, config, Schedule(10, 0, 0, 1))
    torch.testing.assert_close(budget.penalty(), torch.tensor(0.5 * 2**0.5))


REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "too few steps": ({"tinit": 5, "tfinal": 6}, "method.too-few-steps", "lora.tinit"),
    "nothing would fall": ({"rank": 8, "initial_rank": 8}, "recipe.value", "lora.initial_rank"),
    "rslora": ({"rslora": True}, "recipe.combination", "lora.rslora"),
    "4 bits": ({"quantize": "nf4"}, "recipe.combination", "lora.quantize"),
    "another variant": ({"variant": "dora", "tinit": 3}, "recipe.combination", "lora.tinit"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_means_nothing_is_refused(case: str, tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    options, code, where = REFUSALS[case]
    rows = [{"text": f"the red cat {word}", "label": "ab"[at % 2]} for at, word in enumerate(tiny.WORDS[:8])]
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    findings, _ = luthier.check(
        task="classify", model=tiny_folder("bert"), data={"train": data, "eval": 0.0}, method="lora",
        lora={"variant": "adalora", **options}, steps=10,
    )  # fmt: skip
    (error,) = (finding for finding in findings if finding.severity == "error")
    assert (error.code, error.where) == (code, where)
    assert error.mend
