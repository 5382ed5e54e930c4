"""A pretrained model with its tokenizer: hidden states from the trunk, logits from the head, on packed or padded rows.

Axes: K rows (sequences), T tokens of all rows in a batch (pads included where padded), D hidden width, N positions,
V vocabulary, C classes, L longest row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from luthier.models.attention import PACKED
from luthier.models.heads import head_logits, positions_read
from luthier.models.seams import Seams, find_seams
from luthier.types import Batch


@dataclass
class Backbone:
    """What objectives and methods are given in place of a bare model.

    ``layout`` is "packed" (rows laid end to end, no pad) or "padded"; ``position_offset`` is the first position id
    that this model counts from; ``needs`` is what the model was loaded to give (token_logits, sequence_logits, hidden);
    ``fresh`` names the parameters that were not in the checkpoint.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    path: str
    needs: str = "hidden"
    fresh: set[str] = field(default_factory=set)
    layout: str = "padded"
    position_offset: int = 0
    unpacked_because: str = ""

    @cached_property
    def seams(self) -> Seams:
        return find_seams(self.model)

    @property
    def trunk(self) -> PreTrainedModel:
        return cast(PreTrainedModel, self.model.base_model)

    @property
    def embedding(self) -> nn.Embedding:
        return cast(nn.Embedding, self.model.get_input_embeddings())

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def place(self, device: torch.device) -> None:
        """Move the model there."""
        self.model.to(device)  # type: ignore[arg-type]

    @property
    def width(self) -> int:
        return self.model.config.get_text_config().hidden_size

    @property
    def max_positions(self) -> int | None:
        """The longest row that the model takes, or None where it says nothing."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        # Models that count from an offset reserve that many positions.
        return positions - self.position_offset if positions and positions > 0 else None

    @cached_property
    def reads(self) -> str:
        """Which positions of a row the classification head reads: "first", "last" or "all"."""
        return positions_read(self.model, self.width)

    @cached_property
    def causal(self) -> bool:
        """Whether a position sees only those before it, asked of the trunk itself."""
        first_13, second_13 = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 8]])
        with evaluating(self.model), self.attention("sdpa"), torch.no_grad():
            a, b = (self.trunk(ids.to(self.device)).last_hidden_state[0, 0] for ids in (first_13, second_13))
        return bool(torch.equal(a, b))

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """What lies outside the trunk, and whatever the checkpoint did not hold."""
        outside = tuple(f"{name}." for name in self.seams.head)
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if (outside and name.startswith(outside)) or name in self.fresh
        }

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states of every token, rows end to end: (T, D). Cached ones are used where the batch brings them."""
        if "hidden_TD" in batch.tensors:
            return batch["hidden_TD"]
        inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
        if "cu_seq_lens" in batch.tensors:
            boundaries = batch["cu_seq_lens"]
            longest = int((boundaries[1:] - boundaries[:-1]).max())
            inputs |= {"position_ids": batch["position_ids"] + self.position_offset}
            inputs |= {"cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries}
            inputs |= {"max_length_q": longest, "max_length_k": longest}
        else:
            inputs["attention_mask"] = batch["attention_mask"]
            if "position_ids" in batch.tensors:
                inputs["position_ids"] = batch["position_ids"] + self.position_offset
        return self.trunk(**inputs).last_hidden_state.flatten(0, 1)

    def token_logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, D) → (N, V): the language model's head, with its own scaling and capping."""
        return head_logits(self.model, hidden_ND[None])[0]

    def sequence_logits(self, hidden_TD: Tensor, batch: Batch) -> Tensor:
        """(T, D) → (K, C): the classification head at the first, last or all real tokens of each row."""
        starts_K, lengths_K = batch["starts"], batch["lengths"]
        if self.reads != "all":
            at_K = starts_K if self.reads == "first" else starts_K + lengths_K - 1
            return head_logits(self.model, hidden_TD.index_select(0, at_K)[:, None])
        positions_L = torch.arange(int(lengths_K.max()), device=hidden_TD.device)
        real_KL = positions_L < lengths_K[:, None]
        at_KL = torch.where(real_KL, starts_K[:, None] + positions_L, starts_K[:, None])
        return head_logits(self.model, hidden_TD[at_KL], real_KL.long())

    @contextmanager
    def attention(self, implementation: str) -> Iterator[None]:
        """Run with another attention, such as transformers' own for generation."""
        before = self.model.config._attn_implementation
        self._set_attention(implementation)
        try:
            yield
        finally:
            self._set_attention(before)

    def _set_attention(self, implementation: str) -> None:
        if self.model.config._attn_implementation == implementation:
            return
        if implementation == "sdpa" and not self.model._supports_sdpa:
            implementation = "eager"
        self.model.set_attn_implementation(implementation)

    def choose_layout(self, packing: str) -> None:
        """Pack where this model keeps packed rows apart (measured on the spot), pad otherwise and say why."""
        self.layout, self.unpacked_because = "padded", "turned off"
        if packing == "off":
            return
        offset, reason = _packing_offset(self)
        if offset is None:
            self.unpacked_because = reason
            return
        self.layout, self.position_offset, self.unpacked_because = "packed", offset, ""
        self._set_attention(PACKED)


def _packing_offset(backbone: Backbone) -> tuple[int | None, str]:
    """The position offset with which two packed rows give the same hidden states as each alone, or None and why."""
    vocabulary = len(backbone.embedding.weight)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(vocabulary // 2, vocabulary, (n,), generator=generator).to(backbone.device) for n in (5, 9)]
    position_table = _position_padding(backbone.model)
    worst = "this model does not take packed rows"
    with evaluating(backbone.model), torch.no_grad():
        with backbone.attention("sdpa"):
            alone = [backbone.trunk(row[None], attention_mask=torch.ones_like(row)[None]) for row in rows]
            expected_TD = torch.cat([output.last_hidden_state[0] for output in alone]).float()
        for offset in sorted({0, position_table}):
            try:
                backbone.position_offset = offset
                with backbone.attention(PACKED):
                    difference = (backbone.hidden(_packed(rows)).float() - expected_TD).abs().max()
            except (NotImplementedError, ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
                worst = f"{type(error).__name__}: {error}".split("\n")[0][:160]
                continue
            bound = (
                1e-4 if expected_TD.dtype == next(backbone.model.parameters()).dtype else 5e-2
            ) * expected_TD.abs().max()
            if difference <= bound:
                return offset, ""
            worst = f"packed rows differ from separate ones by {float(difference):.1e}"
    backbone.position_offset = 0
    return None, worst


def _packed(rows: list[Tensor]) -> Batch:
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    boundaries = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    positions = torch.cat([torch.arange(len(row), device=row.device) for row in rows])
    tensors = {"input_ids": torch.cat(rows)[None], "position_ids": positions[None], "cu_seq_lens": boundaries}
    return Batch(tensors, list(range(len(rows))))


def _position_padding(model: PreTrainedModel) -> int:
    """Models whose position table has a padding row count positions from the one after it."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and the mode of every module as it was after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
