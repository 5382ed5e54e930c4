"""How far a student's distribution is from its teacher's: forward and reverse KL, and what lies between.

With P = softmax(t / T) of the teacher and Q = softmax(s / T) of the student, at each position:

| `kind` | D | reference |
|---|---|---|
| forward | KL(P ‖ Q) = Σ_v P_v (log P_v - log Q_v) | Hinton et al. 2015 (arXiv 1503.02531), section 2 |
| reverse | KL(Q ‖ P) | Gu et al. 2024 (MiniLLM, arXiv 2306.08543), equation 1, at each token of given text |
| jsd | β KL(P ‖ M) + (1 - β) KL(Q ‖ M), M = β P + (1 - β) Q | Agarwal et al. 2024 (GKD, arXiv 2306.13649), equation 1 |

Forward KL is large where the teacher puts mass and the student none, so the student covers every mode; reverse KL where
the student puts mass and the teacher none, so it keeps to modes. D is multiplied by T², since its gradient falls
as 1/T² (Hinton et al., section 2): the share that `alpha` gives it stays the same.

Axes: N positions (or rows), V tokens of a vocabulary (or classes).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["forward", "reverse", "jsd"]


def divergence(
    student_NV: Tensor, teacher_NV: Tensor, kind: Kind, *, temperature: float = 1.0, beta: float = 0.5
) -> Tensor:
    """(N,) T² · D in nats, from logits. Of vocabularies of two widths the ids that both have are compared."""
    width = min(student_NV.shape[-1], teacher_NV.shape[-1])
    q_NV, p_NV = (torch.log_softmax(z[..., :width].float() / temperature, -1) for z in (student_NV, teacher_NV))
    if kind == "forward":
        found_N = _kl(p_NV, q_NV)
    elif kind == "reverse":
        found_N = _kl(q_NV, p_NV)
    else:
        m_NV = torch.logaddexp(p_NV + math.log(beta), q_NV + math.log1p(-beta))
        found_N = beta * _kl(p_NV, m_NV) + (1 - beta) * _kl(q_NV, m_NV)
    return temperature**2 * found_N


def _kl(first_NV: Tensor, second_NV: Tensor) -> Tensor:
    """(N,) KL(first ‖ second), of logarithms of probabilities."""
    return (first_NV.exp() * (first_NV - second_NV)).sum(-1)
