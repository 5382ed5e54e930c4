"""Losses and gradients of open_clip on given features, for `test_open_clip.py`. Not run by the tests.

    PYTHON tests/parity/openclip/record.py     # PYTHON: an environment with open_clip_torch 3.3.0

Features are drawn, rounded and brought to length 1 as its models do; gradients are those of what was drawn, of the
logarithm of the scale and of the bias. Writes fixtures.json.
"""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss

PAIRS, WIDTH = 7, 12
CASES: dict[str, tuple[Any, float, float | None]] = {  # the loss, 1/τ, the bias
    "clip": (ClipLoss, 1 / 0.07, None),
    "clip, highest scale": (ClipLoss, 100.0, None),
    "siglip": (SigLipLoss, 10.0, -10.0),
    "siglip, trained": (SigLipLoss, 117.3, -12.9),
}


def main() -> None:
    draw = torch.Generator().manual_seed(0)
    images, texts = ((torch.randn(PAIRS, WIDTH, generator=draw) * 100).round() / 100 for _ in range(2))
    texts = texts + images / 2  # so that what belongs together is a little alike
    told: dict[str, Any] = {"made_with": f"open_clip_torch {version('open_clip_torch')}", "cases": {}}
    told |= {"images": images.tolist(), "texts": texts.tolist()}
    for name, (kind, scale, bias) in CASES.items():
        leaves = {"images": images.clone(), "texts": texts.clone(), "logit_scale": torch.tensor(math.log(scale))}
        leaves |= {} if bias is None else {"logit_bias": torch.tensor(bias)}
        for leaf in leaves.values():
            leaf.requires_grad_()
        given = [F.normalize(leaves["images"], dim=-1), F.normalize(leaves["texts"], dim=-1)]
        given += [leaves["logit_scale"].exp(), *([] if bias is None else [leaves["logit_bias"]])]
        loss = kind()(*given)
        loss.backward()
        told["cases"][name] = {"loss": loss.item(), "scale": scale, "bias": bias}
        told["cases"][name] |= {"gradients": {key: leaf.grad.tolist() for key, leaf in leaves.items()}}
    (Path(__file__).parent / "fixtures.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
    print({name: case["loss"] for name, case in told["cases"].items()})


if __name__ == "__main__":
    main()
