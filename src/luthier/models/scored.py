"""A model that is there already, read for one number of each hidden state: by a head of its own, with another adapter.

So policy, reference, reward model and value model can be one copy of the weights.

Axes: T tokens of all rows, N positions, K rows, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from luthier.models.backbone import Backbone
from luthier.types import Batch


@dataclass
class Scored(Backbone):
    """``head`` is (D) → 1, read at the last real token of a row; ``using`` puts its adapter in force, None where it
    reads the hidden states of the model as it is."""

    head: nn.Linear | None = None
    using: Callable[[], AbstractContextManager[Any]] | None = None

    @cached_property
    def reads(self) -> str:
        return "last"

    def hidden(self, batch: Batch) -> Tensor:
        if self.using is None:
            return super().hidden(batch)
        with self.using():
            return super().hidden(batch)

    def scores(self, hidden_ND: Tensor) -> Tensor:
        """(N,) fp32."""
        assert self.head is not None
        return self.head(hidden_ND.float())[:, 0]

    def sequence_logits(self, hidden_TD: Tensor, batch: Batch) -> Tensor:
        """(T, D) → (K, 1)."""
        last_K = batch["starts"] + batch["lengths"] - 1
        return self.scores(hidden_TD.index_select(0, last_K))[:, None]

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Under the name that transformers' decoders have for it."""
        assert self.head is not None
        return {f"score.{name}": parameter for name, parameter in self.head.named_parameters()}


def scored(backbone: Backbone, head: nn.Linear, using: Callable[[], AbstractContextManager[Any]] | None) -> Scored:
    """The same model, tokenizer and layout, read by ``head``."""
    shared = {field.name: vars(backbone)[field.name] for field in fields(Backbone)}
    return Scored(**shared | {"needs": "sequence_logits", "head": head.to(backbone.device), "using": using})
