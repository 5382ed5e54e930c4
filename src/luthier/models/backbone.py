"""A pretrained model with its tokenizer: hidden states from the trunk, logits from the head, on packed or padded rows.

Of an encoder-decoder the hidden states are the decoder's, of the target's tokens; where no target is predicted
(``needs="hidden"``) they are the encoder's alone, which is what a vector of a text is best made of (Ni et al. 2022,
Sentence-T5, arXiv 2108.08877, section 3).

Axes: K rows (sequences), T tokens of all rows in a batch (pads included where padded), D hidden width, N positions,
V vocabulary, C classes, L longest row.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from luthier.data.collate import lay_out
from luthier.models.attention import PACKED
from luthier.models.audio.sounds import Sounds
from luthier.models.heads import head_logits, positions_read
from luthier.models.modes import evaluating
from luthier.models.packing import ends_of, laid_out_by_row, layout_inputs, packing_offset, sharing_problem
from luthier.models.prefixed import Switch
from luthier.models.probes import closing_norms, row_of
from luthier.models.roles import Addressed
from luthier.models.stacks import decode, is_encoder_decoder
from luthier.models.switched import Switched
from luthier.models.virtual import lengthened
from luthier.models.vision.pictures import Pictures
from luthier.types import Batch, Features

OWN_HEADS = ("sequence_logits", "tag_logits", "span_logits", "action_flow", "frame_logits")


class Composition(Protocol):
    """Several adapters in one model: which are in force, for all rows or for each row of a batch."""

    def rows(self, chosen_K: Tensor, batch: Batch) -> AbstractContextManager[None]: ...


@dataclass
class Backbone(Addressed, Switched):
    """What objectives and methods are given in place of a bare model.

    ``layout`` is "packed" (rows laid end to end, no pad) or "padded"; ``position_offset`` is the first position id
    that this model counts from; ``needs`` is what the model was loaded to give (token_logits, sequence_logits, ...);
    ``fresh`` names the parameters that were not in the checkpoint; ``fingerprint`` tells these weights from others;
    ``adapters`` are those that were put in, and which are in force. ``soft_prompt`` gives embeddings (P, D) that are
    laid before every row; ``prefix_positions`` is how many positions a carried prefix takes from the tokens.
    ``dropout`` is whether training drops what config and method say: not where two likelihoods are compared.
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
    unshared_because: str = "rows are padded"
    fingerprint: str = ""
    adapters: Composition | None = None
    soft_prompt: Callable[[], Tensor] | None = None
    prompt_length: int = 0
    prefix_positions: int = 0
    prefix_switch: Switch = field(default_factory=lambda: Switch(on=False))
    pictures: Pictures | None = None
    sounds: Sounds | None = None
    dropout: bool = True
    _norms: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    @property
    def encoder_decoder(self) -> bool:
        return is_encoder_decoder(self.model)

    @property
    def has_own_head(self) -> bool:
        """Whether its head is the task's own, which must be learned: not a language model's, and not none."""
        return self.needs in OWN_HEADS

    @property
    def trunk(self) -> PreTrainedModel:
        """What gives hidden states: the model without its head; the encoder alone where nothing else is needed."""
        encoder_alone = self.encoder_decoder and self.needs == "hidden"
        return cast(PreTrainedModel, self.model.get_encoder() if encoder_alone else self.model.base_model)

    def trunk_parameters(self) -> list[nn.Parameter]:
        """All but the head's. An encoder-decoder may hold both in one module, so the trunk's module can't tell."""
        outside = tuple(f"{name}." for name in self.seams.head)
        return [p for name, p in self.model.named_parameters() if not (outside and name.startswith(outside))]

    @property
    def reads_text(self) -> bool:
        return True

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
    def stream_width(self) -> int:
        """Of the residual stream in the blocks, where that is not the width of what the head reads."""
        return self.stream_of(self.width)

    @property
    def max_positions(self) -> int | None:
        """The longest row that the model takes, or None where it says nothing."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        # Models that count from an offset reserve that many positions; virtual tokens take theirs.
        taken = self.position_offset + self.prompt_length + self.prefix_positions
        return positions - taken if positions and positions > 0 else None

    @cached_property
    def has_position_table(self) -> bool:
        """Whether positions are looked up in a table of embeddings, past whose end nothing can be computed."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 0
        tables = [m for m in self.trunk.modules() if isinstance(m, nn.Embedding) and m is not self.embedding]
        return any(0 <= table.num_embeddings - positions <= 8 for table in tables)

    @cached_property
    def reads(self) -> str:
        """Which positions of a row the classification head reads: "first", "last" or "all"."""
        return positions_read(self.model, self.width)

    @cached_property
    def causal(self) -> bool:
        """Whether a position sees only those before it, asked of the trunk itself: of the part that writes."""
        with self.plain(), evaluating(self.model), self.attention("sdpa"), torch.no_grad():
            a, b = (self.hidden(self.probe([5, 6, third, 9]))[0] for third in (7, 8))
        return bool(torch.equal(a, b))

    @property
    def closing_norms(self) -> dict[str, str]:
        """Block → the norm whose output is the block's own, where it ends in one (post-norm, as BERT)."""
        if self.role not in self._norms:
            self._norms[self.role] = closing_norms(self)
        return self._norms[self.role]

    def at_work(self) -> None:
        """Run every part of the trunk once, on a few ids: for what is asked of a model by hooks."""
        self.hidden(self.probe([5, 6, 7]))

    def probe(self, ids: list[int]) -> Batch:
        """One row: of what the model writes, where it writes."""
        return row_of(self, ids)

    def sample_inputs(self) -> dict[str, Tensor]:
        """What the model itself takes for one row."""
        ids_1T = torch.tensor([[5, 6, 7]], device=self.device)
        # Of another length, so that cross-attention is told from the decoder's own.
        return {"input_ids": ids_1T} | ({"decoder_input_ids": ids_1T[:, :2]} if self.encoder_decoder else {})

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """What lies outside the trunk and whatever the checkpoint did not hold; none where vectors are what is read."""
        if self.needs == "hidden":  # what is new then, a pooler, is not asked
            return {}
        outside = tuple(f"{name}." for name in self.seams.head)
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if (outside and name.startswith(outside)) or name in self.fresh
        }

    def picture_places(self, batch: Batch) -> Tensor | None:
        """(T,), True where a token stands for a picture; None where pictures are no tokens of a row."""
        return None

    @property
    def prompt_problem(self) -> str:
        """Why virtual tokens can't stand before its rows ("" where they can)."""
        return ""

    def joining_parameters(self) -> dict[str, nn.Parameter]:
        """What joins the model's towers and is new: it trains with every method."""
        return {}

    def lay_out(self, rows: list[Features]) -> dict[str, Tensor]:
        """The tensors of a batch of these rows (see ``data/collate.py``), on the CPU."""
        return lay_out(rows, self.layout, self.tokenizer.pad_token_id or 0)

    def media(self, batch: Batch) -> dict[str, Any]:
        """What the trunk is given beside text."""
        return {}

    def check_search(self, rows: list[Features], num_beams: int) -> None:
        """Raises Refused where these rows can't be answered by a search with so many beams."""

    def row_media(self, rows: list[Features]) -> dict[str, Tensor]:
        """The same of rows that are not laid out in a batch, on the CPU: for generation."""
        return {}

    def described(self) -> dict[str, Any]:
        """What else a program must know to give the model rows, for run.json."""
        return {}

    def save_readers(self, folder: Path) -> None:
        """Write what turns a row into numbers beside the model."""
        self.tokenizer.save_pretrained(folder)

    def read_as(self, other: Backbone) -> None:
        """Take what turns rows into numbers from another opening of the same model."""
        self.tokenizer, self.pictures = other.tokenizer, other.pictures

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states of every token, rows end to end: (T, D). Cached ones are used where the batch brings them.

        The tokens of an encoder-decoder are its target's, ``target_ids``; a classifier's are the row itself again.
        """
        if "hidden_TD" in batch.tensors:
            return batch["hidden_TD"]
        inputs: dict[str, Any] = {"input_ids": batch["input_ids"]}
        if self.encoder_decoder and self.needs != "hidden":
            inputs, _ = self._with_prompt(inputs | {"attention_mask": batch["attention_mask"]})
            with self._routed(batch):
                return decode(self.model, inputs, batch.tensors.get("target_ids", batch["input_ids"])).flatten(0, 1)
        if not self.encoder_decoder:
            inputs["use_cache"] = False
        inputs |= layout_inputs(batch, self.position_offset, self._shift) | self.media(batch)
        inputs, kept_T = self._with_prompt(inputs)
        with self._routed(batch):
            hidden_TD = self.trunk(**inputs).last_hidden_state.flatten(0, 1)
        return hidden_TD if kept_T is None else hidden_TD.index_select(0, kept_T)

    def _with_prompt(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], Tensor | None]:
        """With the soft prompt before each row, where there is one, and where the given tokens then are."""
        return (inputs, None) if self.soft_prompt is None else lengthened(inputs, self.embedding, self.soft_prompt())

    def _routed(self, batch: Batch) -> AbstractContextManager[None]:
        """Each row through the adapter that its batch names, where it names any."""
        if self.adapters is None or "adapter" not in batch.tensors:
            return nullcontext()
        return self.adapters.rows(batch["adapter"], batch)

    @property
    def _shift(self) -> int:
        return self.prefix_positions if self.prefix_switch.on else 0

    def generation_inputs(self, ids_KL: Tensor, mask_KL: Tensor) -> dict[str, Tensor]:
        """What ``generate`` takes for padded rows: with the soft prompt, or at the prefix's positions."""
        inputs = {"input_ids": ids_KL, "attention_mask": mask_KL}
        if self._shift:
            inputs["position_ids"] = (mask_KL.cumsum(1) - 1).clamp(min=0) + self._shift
        return self._with_prompt(inputs)[0]

    def token_logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, D) → (N, V): the language model's head, with its own scaling and capping."""
        return head_logits(self.model, hidden_ND[None])[0]

    def position_logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, D) → (N, C): the head on single tokens: their classes, or (C = 2) a span's start and end."""
        return head_logits(self.model, hidden_ND[None])[0]

    def sequence_logits(self, hidden_TD: Tensor, batch: Batch) -> Tensor:
        """(T, D) → (K, C): the classification head at the first, last or all real tokens of each row."""
        if self.reads != "all":
            at_K = batch["starts"] if self.reads == "first" else ends_of(batch)
            return head_logits(self.model, hidden_TD.index_select(0, at_K)[:, None])
        return head_logits(self.model, *laid_out_by_row(hidden_TD, batch))

    def choose_layout(self, packing: str) -> None:
        """Pack where this model keeps packed rows apart (measured on the spot), pad otherwise and say why."""
        self.layout, self.unpacked_because = "padded", "turned off"
        if packing == "off":
            return
        if self.encoder_decoder and self.needs != "hidden":
            self.unpacked_because = "the decoder reads a source of another length than its own rows"
            return
        offset, reason = packing_offset(self)
        if offset is None:
            self.unpacked_because = reason
            return
        self.layout, self.position_offset, self.unpacked_because = "packed", offset, ""
        self.set_attention(PACKED)
        scores = self.needs == "sequence_logits" and self.model.config.num_labels == 1
        asks = scores or self.needs == "token_logits"
        self.unshared_because = sharing_problem(self) if asks else "no answers are read"
