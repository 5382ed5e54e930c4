"""A model whose picture is a few tokens before its whole row, and whose language model, with its head, is one inside:
BLIP-2 (Li et al. 2023, arXiv 2301.12597), told by its processor, which is given a number of query tokens and no mark.

What the pictures are is the model's own (``get_image_features``); so is where they go in a row
(``get_placeholder_mask``). Hidden states are the inner language model's, before its head.

Axes: K rows, L columns, T = K · L, D hidden width, N positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from luthier.data.document import one_text
from luthier.models.heads import head_logits
from luthier.models.packing import layout_inputs
from luthier.models.processed import BESIDE, TEXT_TENSORS, ProcessedPictures
from luthier.models.vision_language import VisionLanguageBackbone
from luthier.types import Batch, Features, Finding, Picture, Refused

QUERIES = "num_query_tokens"


def leads(processor: Any) -> bool:
    """Whether pictures are a given number of tokens before all that it is given to write."""
    return bool(getattr(processor, QUERIES, None))


@dataclass
class LeadingPictures(ProcessedPictures):
    def _find_mark(self) -> tuple[str, int]:
        from PIL import Image

        tokens, arrays = self._processed(Image.new("RGB", (8, 8), "grey"), "")
        if {*tokens} != {self.image_id} or {*arrays} != {"pixel_values"}:
            what = f"{type(self.processor).__name__} makes more of a picture than tokens before the row and its pixels"
            mend = "choose a model such as LLaVA, Idefics3 or Gemma 3, or compose one: `model: {image: ..., text: ...}`"
            raise Refused(Finding("model.processor", "model.name", what, mend))
        return str(self.tokenizer.convert_ids_to_tokens(self.image_id)), self.image_id

    def check_scores(self) -> None:
        what = f"{type(self.processor).__name__} lays out a prompt and one answer: such a model reads no conversation"
        raise Refused(Finding("model.processor", "model.name", what, "choose a model such as LLaVA or Qwen-VL"))

    def _processed(self, image: Any, mark: str) -> tuple[list[int], dict[str, np.ndarray]]:
        made = self.processor(text=BESIDE, images=[image], return_tensors="np")
        ids, plain = [int(one) for one in made["input_ids"][0]], self.tokenizer(BESIDE)["input_ids"]
        arrays = {name: np.asarray(value) for name, value in made.items() if name not in TEXT_TENSORS}
        return ids[: len(ids) - len(plain)], arrays


@dataclass(kw_only=True)
class LeadingBackbone(VisionLanguageBackbone):
    pictures: LeadingPictures

    def __post_init__(self) -> None:
        if self.writer is self.model or self.writer.base_model is self.writer or self.writer.config.is_encoder_decoder:
            what = f"the language model inside {self.name} is no decoder with a head of its own"
            mend = "compose one: `model: {image: ..., text: ...}`, or choose a model such as LLaVA or Idefics3"
            raise Refused(Finding("model.head", "model.name", what, mend))

    @property
    def writer(self) -> PreTrainedModel:
        """The language model inside, with its head."""
        return cast(PreTrainedModel, self.model.get_decoder())

    @property
    def lays_out_rows(self) -> bool:
        return True

    @property
    def prompt_problem(self) -> str:
        return "its pictures stand before the whole row"

    def row_of(
        self, source: str, separator: str, target: str | None, pictures: list[Picture], limit: int
    ) -> Features:  # fmt: skip
        """One picture before a text, which loses the end of its source where it is too long. Raises BadPicture, and
        Refused where there is another number of pictures, or a mark stands inside the text."""
        source = source.removeprefix(self.mark)
        if len(pictures) != 1 or self.mark in source + (target or ""):
            what = f"{self.name} reads one picture before the whole row, and this row has {len(pictures)}"
            what = what if len(pictures) != 1 else f"{self.name} reads its picture before the whole row, and no mark"
            raise Refused(Finding("data.picture-marks", "text", what, "give one picture a row, and no mark within"))
        key = self.pictures.key(pictures[0])
        lead = self.places(key)
        row = one_text(self.tokenizer, source, separator, target, limit - len(lead))
        return row | {
            "input_ids": lead + row["input_ids"], "supervised": [False] * len(lead) + row["supervised"],
            "turn_ends": [end + len(lead) for end in row["turn_ends"]], "full_length": row["full_length"] + len(lead),
            "pictures": [key], "cost": 0,
        }  # fmt: skip

    def check_conversations(self) -> None:
        what = f"{self.name} reads one picture before a text and goes on with it: no conversation"
        raise Refused(Finding("model.processor", "model.name", what, "use `task: vqa` or `caption`"))

    def hidden(self, batch: Batch) -> Tensor:
        """(T, D)."""
        if "hidden_TD" in batch.tensors:
            return batch["hidden_TD"]
        model: Any = self.model
        ids_KL = batch["input_ids"]
        with self._routed(batch):
            embeds_KLD = self.embedding(ids_KL)
            if "pixel_values" in batch.tensors:
                seen = model.get_image_features(batch["pixel_values"]).pooler_output.to(embeds_KLD.dtype)
                places = model.get_placeholder_mask(ids_KL, inputs_embeds=embeds_KLD)
                embeds_KLD = embeds_KLD.masked_scatter(places, seen)
            inputs = layout_inputs(batch, self.position_offset, self._shift)
            states = self.writer.base_model(inputs_embeds=embeds_KLD, use_cache=False, **inputs)
        return states.last_hidden_state.flatten(0, 1)

    def token_logits(self, hidden_ND: Tensor) -> Tensor:
        return head_logits(self.writer, hidden_ND[None])[0]

    def sample_inputs(self) -> dict[str, Tensor]:
        from PIL import Image

        tokens, arrays = self.pictures._processed(Image.new("RGB", (8, 8), "grey"), "")
        ids_1T = torch.tensor([[*tokens, 5, 6, 7]], device=self.device)
        return {"input_ids": ids_1T, "pixel_values": torch.tensor(arrays["pixel_values"]).to(self.device)}
