"""Next-token prediction of actions: each number of a chunk is one of B tokens, written after what is seen and asked.

    L = Σ_k w_k Σ_n -log p(token of bin(y_kn) | row, the numbers before it);  count = Σ_k w_k · numbers known

RT-2's and OpenVLA's way (Brohan et al. 2023, arXiv 2307.15818, section 3.2; Kim et al. 2024, arXiv 2406.09246, section
3.2): the B tokens are those of the vocabulary's end that are no special ones. An answer is written number by number,
each the likeliest of these B tokens; its value is the middle of the bin. Needs: token logits of a decoder. Relations:
`binned_actions` is the same with a head of its own, all numbers at once.

| features | |
|---|---|
| input_ids, supervised | the row, its actions supervised |
| prompt | how many tokens come before the actions |
| action_ids, numbers | the token of each bin; numbers of a whole chunk |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from luthier.models.backbone import Backbone
from luthier.objectives import next_token
from luthier.options import Options as Section
from luthier.types import Batch, Features


class Options(Section):
    pass


@dataclass
class Rows(Batch):
    """A batch with the rows that it is of, which are to go on."""

    features: list[Features] = field(default_factory=list)


class Objective(next_token.Objective):
    def collate(self, rows: list[Features]) -> Batch:
        made = super().collate(rows)
        return Rows(made.tensors, made.rows, made.tokens, rows)

    def outputs(self, backbone: Backbone, batch: Batch) -> list[Any]:
        """As ``next_token``, with the ``bins`` that are written: one for each number of a chunk."""
        assert isinstance(batch, Rows)
        plain = super().outputs(backbone, batch)
        return [one | {"bins": bins} for one, bins in zip(plain, self.written(backbone, batch.features), strict=True)]

    def written(self, backbone: Backbone, rows: list[Features]) -> list[list[int]]:
        action_ids = torch.tensor(rows[0]["action_ids"], device=backbone.device)
        grown = [row | {"input_ids": list(row["input_ids"][: row["prompt"]])} for row in rows]
        found: list[list[int]] = [[] for _ in rows]
        for _ in range(rows[0]["numbers"]):
            batch = Batch(backbone.lay_out(grown), []).to(backbone.device)
            last_K = batch["starts"] + batch["lengths"] - 1
            logits_KV = backbone.token_logits(backbone.hidden(batch).index_select(0, last_K))
            for row, bins, one in zip(grown, found, logits_KV[:, action_ids].argmax(-1).tolist(), strict=True):
                bins.append(one)
                row["input_ids"].append(row["action_ids"][one])
        return found
