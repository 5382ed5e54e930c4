"""A value model that is a whole model of its own: a decoder with a classifier's head of one output, beside the policy.

It reads the rows of the policy's batch. Where it lays rows out in another way than the policy does, the batch has its
layout too, and its hidden states are given back at the policy's places.

Axes: T tokens of all rows as the policy lays them out, N positions, D hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from luthier.models.backbone import Backbone
from luthier.models.heads import head_logits
from luthier.models.modes import train_without_dropout
from luthier.models.scored import Scored, shared_fields
from luthier.types import Batch, Features

OWN = "value."
PLACES = "value_at"


@dataclass
class Apart(Scored):
    """``inner`` is the classifier; it has its own head, and nothing is switched to read it."""

    @property
    def reads_policy(self) -> bool:
        return False

    def lay_beside(self, tensors: dict[str, Tensor], rows: list[Features]) -> dict[str, Tensor]:
        """Nothing where both lay rows out alike; else its own tensors, ``value.…``, and ``value_at`` (T,): where each
        of the policy's tokens lies among them (0 for pads)."""
        assert self.inner is not None
        if self.inner.layout == self.layout:
            return {}
        own = self.inner.lay_out([{"input_ids": row["input_ids"]} for row in rows])
        at_T = torch.zeros(tensors["input_ids"].numel(), dtype=torch.long)
        for ours, theirs, length in zip(
            tensors["starts"].tolist(), own["starts"].tolist(), own["lengths"].tolist(), strict=True
        ):
            at_T[ours : ours + length] = torch.arange(theirs, theirs + length)
        return {f"{OWN}{name}": tensor for name, tensor in own.items()} | {PLACES: at_T}

    def hidden(self, batch: Batch) -> Tensor:
        """(T, D of its own). An id past its embedding, which is none of a token that both know, is read as its last."""
        assert self.inner is not None
        own = {name.removeprefix(OWN): tensor for name, tensor in batch.tensors.items() if name.startswith(OWN)}
        tensors = own or batch.tensors
        ids = tensors["input_ids"].clamp(max=len(self.inner.embedding.weight) - 1)
        hidden_TD = self.inner.hidden(replace(batch, tensors=tensors | {"input_ids": ids}))
        return hidden_TD.index_select(0, batch[PLACES]) if own else hidden_TD

    def scores(self, hidden_ND: Tensor) -> Tensor:
        """(N,) fp32."""
        assert self.inner is not None
        return head_logits(self.inner.model, hidden_ND[:, None])[:, 0].float()

    def trained(self) -> dict[str, nn.Parameter]:
        assert self.inner is not None
        return {f"value_model.{name}": parameter for name, parameter in self.inner.model.named_parameters()}


def apart(policy: Backbone, inner: Backbone) -> Apart:
    """Beside ``policy``; it trains whole, in fp32, and as the policy does without dropout."""
    for parameter in inner.model.parameters():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    train_without_dropout(inner.model)
    return Apart(**shared_fields(policy) | {"needs": "sequence_logits", "inner": inner})
