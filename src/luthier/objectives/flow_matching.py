"""Conditional flow matching: a velocity that carries noise to a chunk of actions, as pi-zero and SmolVLA learn it.

    x_τ = τ y + (1 - τ) ε,  ε ~ N(0, 1),  τ = 0.999 (1 - b),  b ~ Beta(1.5, 1)
    L = Σ_k w_k Σ_n m_kn (v(x_τ, τ, h_k)_n - (y - ε)_n)²;  count = Σ_k w_k Σ_n m_kn

Black et al. 2024 (arXiv 2410.24164), section IV and appendix B, in their time (τ = 0 is noise, and noisy times are
drawn more often); Lipman et al. 2023 (arXiv 2210.02747), equation 23, with σ_min = 0. An answer is drawn by ``steps``
steps of Euler's method from one fixed draw of noise, so that it is a function of what is seen. Needs: the velocity of a
composed model's action expert. Targets: scaled actions, NaN past an episode's end (m = 0; there the noise goes towards
0). Noise is drawn as dropout is: how a step is cut into micro-batches changes the draw. Relations: `chunk_regression`
gives the mean of what could be done, this one of the things that could.

Axes: K rows, N = H · A numbers of a chunk.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor

from luthier.models.backbone import Backbone
from luthier.models.joined.multimodal import MultimodalBackbone
from luthier.objectives.chunk_regression import known_terms
from luthier.objectives.sequence import SequenceObjective
from luthier.options import Options as Section
from luthier.types import Batch, Features, LossTerms

WATCHED = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Times at which the loss is taken where it is watched."""


class Options(Section):
    steps: int = Field(10, gt=0, description="of Euler's method, from noise to an answer")
    alpha: float = Field(1.5, gt=0, description="of the Beta distribution of times; 1: all times alike")


class Objective(SequenceObjective):
    needs = "action_flow"

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        hidden, targets = backbone.hidden(batch), batch["targets"]
        beta = torch.distributions.Beta(self.options.alpha, 1.0)
        time_K = 0.999 * (1 - beta.sample((len(targets),)).to(targets.device))
        return known_terms(flow_errors(_expert(backbone), hidden, batch, time_K, torch.randn_like(targets)), batch)

    def outputs(self, backbone: Backbone, batch: Batch) -> list[Any]:
        """Of each row its chunk (N), and where it is labelled the summed loss and how many numbers it is of."""
        backbone, hidden = _expert(backbone), backbone.hidden(batch)
        rows, size = len(batch["weights"]), backbone.action_numbers
        noise_N = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(hidden.device)
        noise_KN = noise_N.expand(rows, -1)
        found = [{"chunk": chunk} for chunk in self._drawn(backbone, hidden, batch, noise_KN).tolist()]
        if "targets" not in batch.tensors:
            return found
        losses_K: Any = 0
        for time in WATCHED:
            time_K = torch.full((rows,), time, device=hidden.device)
            losses_K = losses_K + flow_errors(backbone, hidden, batch, time_K, noise_KN).nansum(1) / len(WATCHED)
        known_K = (~batch["targets"].isnan()).sum(1)
        pairs = zip(found, losses_K.tolist(), known_K.tolist(), strict=True)
        return [one | {"loss": loss, "known": known} for one, loss, known in pairs]

    def _drawn(self, backbone: MultimodalBackbone, hidden: Tensor, batch: Batch, noise_KN: Tensor) -> Tensor:
        """(K, N): Euler's method from τ = 0 to 1."""
        x_KN, count = noise_KN, self.options.steps
        for step in range(count):
            time_K = torch.full((len(x_KN),), step / count, device=x_KN.device)
            x_KN = x_KN + backbone.action_velocity(hidden, batch, x_KN, time_K).float() / count
        return x_KN

    def mean_loss(self, outputs: list[Any], rows: list[Features]) -> float:
        return sum(one["loss"] for one in outputs) / max(1, sum(one["known"] for one in outputs))


def _expert(backbone: Backbone) -> MultimodalBackbone:
    return cast(MultimodalBackbone, backbone)  # no other model is opened for what this needs


def flow_errors(backbone: MultimodalBackbone, hidden: Tensor, batch: Batch, time_K: Tensor, noise_KN: Tensor) -> Tensor:
    """(K, N): squared error of the velocity at given times from given noise, NaN where an action is not known."""
    targets_KN = batch["targets"]
    actions_KN, time_K1 = targets_KN.nan_to_num(), time_K[:, None]
    x_KN = time_K1 * actions_KN + (1 - time_K1) * noise_KN
    velocity_KN = backbone.action_velocity(hidden, batch, x_KN, time_K).float()
    errors_KN = (velocity_KN - (actions_KN - noise_KN)).square()
    return torch.where(targets_KN.isnan(), targets_KN, errors_KN)
