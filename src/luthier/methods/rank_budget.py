"""AdaLoRA's budget of ranks: which singular triplets of which matrices stay (Zhang et al. 2023, arXiv 2303.10512).

W + (alpha / initial rank) · B diag(E) A. Each step, the importance of every number is smoothed (equations 8 to 10):

    I = |w · ∂L/∂w|,   Ī ← β₁ Ī + (1 - β₁) I,   Ū ← β₂ Ū + (1 - β₂) |I - Ī|,   s = Ī · Ū

A triplet's score is s of its E plus the means of s over its row of A and its column of B. The budget falls from all
triplets to `rank` a matrix on a cubic curve (equation 12), and the E of those that score least is set to zero.

PEFT's layers and PEFT's arithmetic (its RankAllocator gives the same masks, tests/parity/test_adalora.py), kept here in
tensors that are changed in place, so that a checkpoint holds them, and without the equality of steps on which PEFT's
last allocation hangs: a step that was skipped for a NaN would leave it out.

Axes: R triplets of a matrix, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import AdaLoraConfig, PeftConfig
from peft.tuners.adalora import AdaLoraLayer
from torch import Tensor, nn

from luthier.models.backbone import Backbone

ADAPTER = "default"
MATRICES = ("lora_A", "lora_E", "lora_B")


@dataclass(frozen=True)
class Schedule:
    """Steps, counted from 1: the budget is whole up to ``initial``, and falls until ``final`` steps before the end."""

    steps: int
    initial: int
    final: int
    every: int

    @property
    def settled(self) -> int:
        """The step that decides for good."""
        return self.steps - self.final

    def budget(self, step: int, whole: int, target: int) -> int:
        """How many triplets may stay after ``step``."""
        if step <= self.initial:
            return whole
        if step >= self.settled:
            return target
        left = 1 - (step - self.initial) / (self.settled - self.initial)
        return int((whole - target) * left**3 + target)

    def cuts(self, step: int) -> bool:
        return step > self.initial and (step % self.every == 0 or step >= self.settled)


class RankBudget:
    """Follows the importance of each triplet, and zeroes those that the budget has no room for."""

    def __init__(self, layers: Mapping[str, AdaLoraLayer], config: AdaLoraConfig, schedule: Schedule):
        self.layers, self.config, self.schedule = layers, config, schedule
        self.parameters = {f"{n}.{m}": _matrix(layer, m) for n, layer in layers.items() for m in MATRICES}
        self.state: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            for kept in ("importance", "uncertainty"):
                self.state[f"{name}|{kept}"] = torch.zeros_like(parameter, dtype=torch.float32)
        for name in layers:
            self.state[f"{name}|kept"] = torch.ones(config.init_r, 1, device=_matrix(layers[name], "lora_E").device)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Once step ``step`` (from 1) has been taken, while its gradients are still there."""
        over = step > self.schedule.settled and self._at_target
        if step < self.schedule.settled:
            self._follow()
        if not over and self.schedule.cuts(step):
            self._choose(self.schedule.budget(step, len(self.layers) * self.config.init_r, self._target))
        elif not over:
            return
        for name, layer in self.layers.items():
            _matrix(layer, "lora_E").mul_(self.state[f"{name}|kept"])

    @property
    def _target(self) -> int:
        return len(self.layers) * self.config.target_r

    @property
    def _at_target(self) -> bool:
        return sum(int(self.state[f"{name}|kept"].sum()) for name in self.layers) <= self._target

    def _follow(self) -> None:
        beta_1, beta_2 = self.config.beta1, self.config.beta2
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            importance = (parameter * parameter.grad).abs()
            smoothed, uncertainty = self.state[f"{name}|importance"], self.state[f"{name}|uncertainty"]
            smoothed.mul_(beta_1).add_(importance, alpha=1 - beta_1)
            uncertainty.mul_(beta_2).add_((importance - smoothed).abs(), alpha=1 - beta_2)

    def _score_R(self, layer: str) -> Tensor:
        scores = {m: self.state[f"{layer}.{m}|importance"] * self.state[f"{layer}.{m}|uncertainty"] for m in MATRICES}
        return scores["lora_E"][:, 0] + (scores["lora_A"].mean(1) + scores["lora_B"].mean(0))

    def _choose(self, budget: int) -> None:
        """Keep what scores above the highest score of those that must go; equal scores go together."""
        scores = {name: self._score_R(name) for name in self.layers}
        surplus = len(self.layers) * self.config.init_r - budget
        if surplus > 0:
            threshold = torch.kthvalue(torch.cat(list(scores.values())).cpu(), surplus).values.item()
            for name, score_R in scores.items():
                self.state[f"{name}|kept"].copy_((score_R > threshold)[:, None])

    def ranks(self) -> dict[str, int]:
        """How many triplets of each matrix are not zero."""
        return {name: int(_matrix(layer, "lora_E").count_nonzero()) for name, layer in self.layers.items()}

    def saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(rank pattern, tensors without the triplets that are zero), as PEFT saves them."""
        pattern, tensors = {}, {}
        for name, layer in self.layers.items():
            kept_R = _matrix(layer, "lora_E").detach()[:, 0] != 0
            pattern[f"{name}.lora_E"] = kept_R.tolist()
            for matrix in MATRICES:
                held = _matrix(layer, matrix).detach()
                tensors[f"{name}.{matrix}"] = held[:, kept_R] if matrix == "lora_B" else held[kept_R]
        return pattern, tensors

    def penalty(self) -> Tensor:
        """weight · mean over all A and B of ‖A Aᵀ - I‖ and ‖Bᵀ B - I‖, as in the authors' code and in PEFT.

        Equation 4 of the paper has the square of the norm.
        """
        left_RO = [_matrix(layer, "lora_B").T for layer in self.layers.values()]
        right_RI = [_matrix(layer, "lora_A") for layer in self.layers.values()]
        distances = [torch.linalg.norm(p @ p.T - torch.eye(len(p), device=p.device)) for p in (*right_RI, *left_RO)]
        return self.config.orth_reg_weight * torch.stack(distances).mean()


def adaptive_layers(backbone: Backbone) -> dict[str, AdaLoraLayer]:
    return {name: layer for name, layer in backbone.named_modules() if isinstance(layer, AdaLoraLayer)}


def shrink(backbone: Backbone, config: PeftConfig) -> None:
    """Give each layer the room of its saved rank; the scale stays that of the initial one, as in training."""
    if not isinstance(config, AdaLoraConfig):
        return
    adaptive = adaptive_layers(backbone)
    for name, kept in (config.rank_pattern or {}).items():
        layer = adaptive[name.removesuffix(".lora_E")]
        layer.update_layer(ADAPTER, sum(kept), config.lora_alpha, config=config)
        layer.ranknum[ADAPTER].data.fill_(float(config.init_r))


def _matrix(layer: Any, name: str) -> nn.Parameter:
    return {"lora_A": layer.lora_A, "lora_E": layer.lora_E, "lora_B": layer.lora_B}[name][ADAPTER]
