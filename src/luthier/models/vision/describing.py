"""A pretrained encoder of pictures with a decoder that reads it alone (transformers' VisionEncoderDecoder, such as
TrOCR, Donut or ViT with GPT-2): it writes of one picture, which is its source.

What it is asked, if anything, is what its decoder begins with: Kim et al. 2022 (Donut, arXiv 2111.15664), section 3.2.
A row's ``input_ids`` are that beginning, a start token first where the model's own rule puts one; ``target_ids`` are
what is written after it. The picture is no token of either.

Axes: K rows, one picture each, F longest beginning, L longest target, T = K · L, D hidden width of the decoder, N
positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from luthier.data.collate import lay_out as padded
from luthier.models.backbone import Backbone
from luthier.models.heads import head_logits
from luthier.models.vision.illustrated import Illustrated
from luthier.models.vision.pictures import Pictures
from luthier.types import Batch, Features, Finding, Picture, Refused


@dataclass(kw_only=True)
class DescribingBackbone(Illustrated):
    """``starts``: whether a start token stands before what is asked."""

    pictures: Pictures
    starts: bool = True

    def __post_init__(self) -> None:
        config = self.model.config
        if config.decoder_start_token_id is None or config.pad_token_id is None:
            what = "its config has no `decoder_start_token_id` or no `pad_token_id`, so the decoder can't begin"
            raise Refused(Finding("model.decoder-start", "model.name", what, "add both to the model's config.json"))
        # transformers' own rule, asked: Donut's decoder begins with the question itself.
        model: Any = self.model
        start_1, other = torch.tensor([config.decoder_start_token_id]), config.decoder_start_token_id + 1
        given = {"decoder_input_ids": torch.tensor([[other]])}
        ids, _ = model._prepare_decoder_input_ids_for_generation(1, "pixel_values", given, start_1, start_1.device)
        self.starts = ids.shape[1] == 2

    @property
    def mark(self) -> str:
        return "<image>"

    @property
    def mark_id(self) -> int:
        return -1  # pictures are no tokens

    @property
    def begins_unasked(self) -> bool:
        return True

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
        """``target_ids`` end in the end of what is written. A question too long loses its end; where it is all gone
        nothing is written. Raises BadPicture, and Refused where there is another number of pictures, or a mark."""
        source = source.removeprefix(self.mark)
        if len(pictures) != 1 or self.mark in source + (target or ""):
            what = f"{self.name} writes of one picture, and this row has {len(pictures)}"
            what = what if len(pictures) != 1 else f"{self.name} writes of its picture, and no mark says where it is"
            raise Refused(Finding("data.picture-marks", "text", what, "give one picture a row, and no mark within"))
        words: Any = self.tokenizer
        closing = separator.rstrip() if source else ""
        asked = words(source + closing, add_special_tokens=False, verbose=False)["input_ids"] if source else []
        begin, written = self._begun(asked), self._written(asked, target)
        full = len(begin) + max(1, len(written)) - 1  # the last one that is written is never read
        last = len(begin) - len(words(closing, add_special_tokens=False)["input_ids"] if closing else ())
        excess, spare = max(0, full - limit), max(0, last - 1)
        begin = begin[: last - min(excess, spare)] + begin[last:]
        written = written if excess <= spare else []
        return {
            "input_ids": begin, "target_ids": written, "turn_ends": [len(written) - 1] if written else [],
            "pictures": [self.pictures.key(pictures[0])], "full_length": full, "cost": 0,
        }  # fmt: skip

    def _begun(self, asked: list[int]) -> list[int]:
        """What the decoder begins with."""
        start = int(self.model.config.decoder_start_token_id)
        return asked if asked and (asked[0] == start or not self.starts) else [start, *asked]

    def _written(self, asked: list[int], target: str | None) -> list[int]:
        """The ids of an answer with its end: as a text alone where nothing is asked, else as what goes on."""
        words: Any = self.tokenizer
        if target is None:
            return []
        ends = [one for one in (words.eos_token_id, words.sep_token_id) if one is not None]
        alone = list(words(text_target=target.strip(), verbose=False)["input_ids"])
        end = alone[-1:] if alone and alone[-1] in ends else ends[:1]
        if not asked:
            return alone if not alone or alone[-1] in ends else alone + end
        space = "" if asked[-1] in words.added_tokens_decoder else " "
        return list(words(f"{space}{target.strip()}", add_special_tokens=False, verbose=False)["input_ids"]) + end

    def row_media(self, rows: list[Features]) -> dict[str, Tensor]:
        return {"pixel_values": self.pictures.pixels(self.pictures.shown(rows))}

    def hidden(self, batch: Batch) -> Tensor:
        """The decoder's, of every token that is written, rows end to end: (T, D)."""
        if "hidden_TD" in batch.tensors:
            return batch["hidden_TD"]
        model: Any = self.model
        begin_KF, target_KL = batch["input_ids"], batch["target_ids"]
        first_K1 = batch["attention_mask"].sum(1, keepdim=True)
        at_KL = first_K1 - 1 + torch.arange(target_KL.shape[1], device=first_K1.device)  # what predicts each target
        read_KN = torch.nn.functional.pad(begin_KF, (0, target_KL.shape[1]), value=self.model.config.pad_token_id)
        read_KN = read_KN.scatter(1, at_KL + 1, target_KL)[:, :-1]
        with self._routed(batch):
            seen_KPD = model.encoder(pixel_values=batch["pixel_values"]).last_hidden_state
            if "enc_to_dec_proj" in model._modules:
                seen_KPD = model.enc_to_dec_proj(seen_KPD)
            decoded = self.decoder.base_model(input_ids=read_KN, encoder_hidden_states=seen_KPD, use_cache=False)
        return decoded.last_hidden_state.gather(1, at_KL[..., None].expand(-1, -1, self.width)).flatten(0, 1)

    def token_logits(self, hidden_ND: Tensor) -> Tensor:
        return head_logits(self.decoder, hidden_ND[None])[0]

    def probe(self, ids: list[int]) -> Batch:
        row = {"input_ids": self._begun([]), "target_ids": ids}
        tensors = padded([row], "padded") | {"pixel_values": self.pictures.blank}
        return Batch(tensors, [0]).to(self.device)

    def sample_inputs(self) -> dict[str, Tensor]:
        ids_1T = torch.tensor([[5, 6]], device=self.device)
        return {"pixel_values": self.pictures.blank.to(self.device), "decoder_input_ids": ids_1T}

    def generation_inputs(self, ids_KL: Tensor, mask_KL: Tensor) -> dict[str, Any]:  # type: ignore[override]
        """Beside the picture, what the decoder begins with: rows of one length, as no mask hides a part of it."""
        return {"decoder_input_ids": ids_KL, "decoder_start_token_id": self.model.config.decoder_start_token_id}

    def choose_layout(self, packing: str) -> None:
        self.layout, self.unpacked_because = "padded", "the decoder reads a picture beside its own rows"

    def save_readers(self, folder: Path) -> None:
        Backbone.save_readers(self, folder)
        self.pictures.save(folder)
