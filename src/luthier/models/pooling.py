"""One vector of a text: the mean over its tokens' hidden states, or the first or last one.

Axes: K rows, T tokens of a batch, D hidden width.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from luthier.models.backbone import Backbone
from luthier.types import Batch

# sentence-transformers' names, as in ``1_Pooling/config.json`` (from 5.4 on, and before).
MODES = {"mean": "mean", "first": "cls", "last": "lasttoken"}
FLAGS = {
    "mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken",
}  # fmt: skip


def pool(hidden_TD: Tensor, batch: Batch, pooling: str) -> Tensor:
    """(T, D) → (K, D)."""
    starts_K, lengths_K = batch["starts"], batch["lengths"]
    if pooling != "mean":
        return hidden_TD[starts_K if pooling == "first" else starts_K + lengths_K - 1]
    owner_T = torch.repeat_interleave(torch.arange(len(lengths_K), device=hidden_TD.device), lengths_K)
    real_T = torch.cat([torch.arange(s, s + n) for s, n in zip(starts_K.tolist(), lengths_K.tolist(), strict=True)])
    summed_KD = hidden_TD.new_zeros(len(lengths_K), hidden_TD.shape[1])
    return summed_KD.index_add(0, owner_T, hidden_TD[real_T.to(hidden_TD.device)]) / lengths_K[:, None]


def pooling_of(backbone: Backbone) -> str:
    """What the model's own folder says, in sentence-transformers' layout; else last where the trunk is causal, mean."""
    told = Path(backbone.path) / "1_Pooling" / "config.json"
    if told.is_file():
        try:
            settings = json.loads(told.read_text(encoding="utf-8"))
        except ValueError:
            settings = {}
        for name in MODES:
            if settings.get("pooling_mode") == MODES[name] or settings.get(FLAGS[name]) is True:
                return name
    return "last" if backbone.causal else "mean"
