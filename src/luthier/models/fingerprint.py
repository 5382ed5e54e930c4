"""What tells a model's weights from others, at the cost of a glance."""

from __future__ import annotations

import hashlib

import torch

from luthier.models.backbone import Backbone

SAMPLED = 1024


def fingerprint(backbone: Backbone, *, whole: bool = False) -> str:
    """sha256 of the embedding's and the blocks' shapes and a sample of their numbers, the same in fp32 and bf16.

    ``whole``: of every parameter, the head's and those of adapters too.
    """
    seams, digest = backbone.seams, hashlib.sha256()
    inside = ("",) if whole else tuple(f"{name}." for name in (*seams.blocks, seams.embedding) if name)
    for name, parameter in backbone.model.named_parameters():
        if name.startswith(inside) and parameter.is_floating_point() and parameter.device.type != "meta":
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, len(flat) // SAMPLED)].to("cpu", torch.bfloat16).contiguous().view(torch.uint8)
            digest.update(f"{name.removeprefix(f'{seams.trunk}.')}{tuple(parameter.shape)}".encode())
            digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:32]
