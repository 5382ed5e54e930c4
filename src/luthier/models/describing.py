"""A pretrained encoder of pictures with a decoder that reads it alone (transformers' VisionEncoderDecoder, such as
TrOCR or ViT with GPT-2): it writes of one picture, which is its source, and is asked nothing.

A row's tokens are those of what is written; the picture is no token of it. The decoder is fed them shifted right, by
the model's own rule.

Axes: K rows, one picture each, L columns, T = K · L, D hidden width of the decoder, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from luthier.models.backbone import Backbone
from luthier.models.heads import head_logits
from luthier.models.illustrated import Illustrated
from luthier.models.pictures import Pictures
from luthier.models.stacks import shifted_right
from luthier.types import Batch, Features, Finding, Picture, Refused


@dataclass(kw_only=True)
class DescribingBackbone(Illustrated):
    pictures: Pictures

    def __post_init__(self) -> None:
        config = self.model.config
        if config.decoder_start_token_id is None or config.pad_token_id is None:
            what = "its config has no `decoder_start_token_id` or no `pad_token_id`, so the decoder can't begin"
            raise Refused(Finding("model.decoder-start", "model.name", what, "add both to the model's config.json"))

    @property
    def mark(self) -> str:
        return "<image>"

    @property
    def mark_id(self) -> int:
        return -1  # pictures are no tokens

    @property
    def reads_questions(self) -> bool:
        return False

    @property
    def lays_out_rows(self) -> bool:
        return True

    @property
    def decoder(self) -> PreTrainedModel:
        """With its head."""
        return cast(PreTrainedModel, self.model.get_decoder())

    @property
    def width(self) -> int:
        return int(self.decoder.config.hidden_size)

    @cached_property
    def causal(self) -> bool:
        return True

    @property
    def prompt_problem(self) -> str:
        return "its source is a picture, and virtual tokens have no place before one"

    def places(self, key: str) -> list[int]:
        return []

    def row_of(
        self, source: str, separator: str, target: str | None, pictures: list[Picture], limit: int
    ) -> Features:  # fmt: skip
        """``target_ids`` as the tokenizer makes them, with the end of what is written; over ``limit`` none are."""
        if len(pictures) != 1:
            what = f"{self.name} writes of one picture, and this row has {len(pictures)}"
            raise Refused(Finding("data.picture-marks", "text", what, "give one picture a row"))
        words: Any = self.tokenizer
        written = [] if target is None else list(words(text_target=target.strip(), verbose=False)["input_ids"])
        ends = [one for one in (words.eos_token_id, words.sep_token_id) if one is not None]
        if written and written[-1] not in ends:
            written += ends[:1]
        full, written = max(1, len(written)), written if len(written) <= limit else []
        return {
            "input_ids": [0], "target_ids": written, "turn_ends": [len(written) - 1] if written else [],
            "pictures": [self.pictures.key(pictures[0])], "full_length": full, "cost": 0,
        }  # fmt: skip

    def row_media(self, rows: list[Features]) -> dict[str, Tensor]:
        return {"pixel_values": self.pictures.pixels(self.pictures.shown(rows))}

    def hidden(self, batch: Batch) -> Tensor:
        """The decoder's, of every token that is written, rows end to end: (T, D)."""
        if "hidden_TD" in batch.tensors:
            return batch["hidden_TD"]
        model: Any = self.model
        with self._routed(batch):
            seen_KPD = model.encoder(pixel_values=batch["pixel_values"]).last_hidden_state
            if "enc_to_dec_proj" in model._modules:
                seen_KPD = model.enc_to_dec_proj(seen_KPD)
            decoded = self.decoder.base_model(
                input_ids=shifted_right(model, batch["target_ids"]), encoder_hidden_states=seen_KPD, use_cache=False
            )
        return decoded.last_hidden_state.flatten(0, 1)

    def token_logits(self, hidden_ND: Tensor) -> Tensor:
        return head_logits(self.decoder, hidden_ND[None])[0]

    def probe(self, ids: list[int]) -> Batch:
        one_1 = torch.zeros(1, dtype=torch.long)
        tensors = {"input_ids": one_1[None], "attention_mask": one_1[None] + 1, "target_ids": torch.tensor([ids])}
        tensors |= {"pixel_values": self.pictures.blank, "starts": one_1, "lengths": one_1 + len(ids)}
        return Batch(tensors, [0]).to(self.device)

    def sample_inputs(self) -> dict[str, Tensor]:
        ids_1T = torch.tensor([[5, 6]], device=self.device)
        return {"pixel_values": self.pictures.blank.to(self.device), "decoder_input_ids": ids_1T}

    def generation_inputs(self, ids_KL: Tensor, mask_KL: Tensor) -> dict[str, Any]:  # type: ignore[override]
        """The picture is all that it is given."""
        return {"decoder_start_token_id": self.model.config.decoder_start_token_id}

    def choose_layout(self, packing: str) -> None:
        self.layout, self.unpacked_because = "padded", "the decoder reads a picture beside its own rows"

    def save_readers(self, folder: Path) -> None:
        Backbone.save_readers(self, folder)
        self.pictures.save(folder)
