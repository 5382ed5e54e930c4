"""Record what TRL's GKD trainer gives for random logits. Not run by the tests: TRL is not among what they need.

python tests/parity/gkd/record.py        # with trl 1.16 installed; writes fixtures.json beside it
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from trl.experimental.gkd import GKDTrainer

POSITIONS, VOCABULARY = 5, 7


def main() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(POSITIONS, VOCABULARY, generator=draw) for _ in range(2))
    cases: list[dict[str, Any]] = []
    for kind, beta in (("forward", 0.0), ("reverse", 1.0), ("jsd", 0.1), ("jsd", 0.5), ("jsd", 0.9)):
        for temperature in (1.0, 2.0):
            leaf = student.clone().requires_grad_()
            loss = GKDTrainer.generalized_jsd_loss(
                leaf[None], teacher[None], beta=beta, temperature=temperature, reduction="sum"
            )
            loss.backward()
            assert leaf.grad is not None
            case = {"kind": kind, "beta": beta, "temperature": temperature, "loss": loss.item()}
            cases.append(case | {"gradient": leaf.grad.tolist()})
    made = {"trl": version("trl"), "student": student.tolist(), "teacher": teacher.tolist(), "cases": cases}
    Path(__file__).with_name("fixtures.json").write_text(json.dumps(made) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
