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
from luthier.types import Batch, Features


@dataclass
class Scored(Backbone):
    """``inner`` is the model as it writes; ``head`` is (D) → 1, read at the last real token of a row; ``using`` puts
    its adapter in force, None where it reads the hidden states of the model as it is."""

    inner: Backbone | None = None
    head: nn.Linear | None = None
    using: Callable[[], AbstractContextManager[Any]] | None = None

    @cached_property
    def reads(self) -> str:
        return "last"

    @property
    def reads_policy(self) -> bool:
        """Whether it reads the hidden states of the model that writes, as they are."""
        return self.using is None

    def lay_beside(self, tensors: dict[str, Tensor], rows: list[Features]) -> dict[str, Tensor]:
        """What a batch of the model that writes needs beside its ``tensors`` to be read here: nothing."""
        return {}

    def lay_out(self, rows: list[Features]) -> dict[str, Tensor]:
        assert self.inner is not None
        return self.inner.lay_out(rows)

    def hidden(self, batch: Batch) -> Tensor:
        assert self.inner is not None
        if self.using is None:
            return self.inner.hidden(batch)
        with self.using():
            return self.inner.hidden(batch)

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

    def trained(self) -> dict[str, nn.Parameter]:
        """What it has itself, as a run calls it; an adapter has its own names."""
        return {f"value_{name}": parameter for name, parameter in self.head_parameters().items()}


def scored(backbone: Backbone, head: nn.Linear, using: Callable[[], AbstractContextManager[Any]] | None) -> Scored:
    """The same model, tokenizer and layout, read by ``head``."""
    told = {"needs": "sequence_logits", "inner": backbone, "head": head.to(backbone.device), "using": using}
    return Scored(**shared_fields(backbone) | told)


def shared_fields(backbone: Backbone) -> dict[str, Any]:
    return {field.name: vars(backbone)[field.name] for field in fields(Backbone)}
