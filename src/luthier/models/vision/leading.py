"""A model whose picture is a few tokens before its whole row, and whose language model, with its head, is one inside:
BLIP-2 (Li et al. 2023, arXiv 2301.12597), told by its processor, which is given a number of query tokens and no mark.

What the pictures are is the model's own (``get_image_features``); so is where they go in a row
(``get_placeholder_mask``). Hidden states are the inner language model's, before its head. Where what looks at a picture
reads the question too, as InstructBLIP's Q-Former (Dai et al. 2023, arXiv 2305.06500) by a tokenizer of its own, a row
has the question twice; the answer it never sees.

Axes: K rows, L columns, T = K · L, Q longest question, D hidden width, N positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from luthier.data.collate import lay_out as padded
from luthier.data.lengths import cut_text
from luthier.data.text.document import one_text
from luthier.models.heads import head_logits
from luthier.models.packing import layout_inputs
from luthier.models.stacks import is_encoder_decoder
from luthier.models.vision.processed import BESIDE, TEXT_TENSORS, ProcessedPictures
from luthier.models.vision.towers import writer_of
from luthier.models.vision.vision_language import VisionLanguageBackbone
from luthier.types import Batch, Features, Finding, Picture, Refused

QUERIES = "num_query_tokens"
ASKED = {"qformer_input_ids": "qformer_tokenizer"}
"""What a question is beside the row, by the tokenizer of the processor that reads it so."""


def leads(processor: Any) -> bool:
    """Whether pictures are a given number of tokens before all that it is given to write."""
    return bool(getattr(processor, QUERIES, None))


@dataclass
class LeadingPictures(ProcessedPictures):
    one_answer = True

    def _find_mark(self) -> tuple[str, int]:
        from PIL import Image

        tokens, arrays = self._processed(Image.new("RGB", (8, 8), "grey"), "")
        if {*tokens} != {self.image_id} or {*arrays} != {"pixel_values"}:
            what = f"{type(self.processor).__name__} makes more of a picture than tokens before the row and its pixels"
            mend = "choose a model such as LLaVA, Idefics3 or Gemma 3, or compose one: `model: {image: ..., text: ...}`"
            raise Refused(Finding("model.processor", "model.name", what, mend))
        return str(self.tokenizer.convert_ids_to_tokens(self.image_id)), self.image_id

    def _processed(self, image: Any, mark: str) -> tuple[list[int], dict[str, np.ndarray]]:
        made = self.processor(text=BESIDE, images=[image], return_tensors="np")
        ids, plain = [int(one) for one in made["input_ids"][0]], self.tokenizer(BESIDE)["input_ids"]
        of_text = {*TEXT_TENSORS, *(name for asked in ASKED for name in (asked, _mask_of(asked)))}
        arrays = {name: np.asarray(value) for name, value in made.items() if name not in of_text}
        return ids[: len(ids) - len(plain)], arrays

    @property
    def questions(self) -> dict[str, Any]:
        """The tokenizers of what looks at a picture and reads the question too, by what the model calls their ids."""
        found = {asked: getattr(self.processor, name, None) for asked, name in ASKED.items()}
        return {asked: tokenizer for asked, tokenizer in found.items() if tokenizer is not None}


@dataclass
class SourcePictures(LeadingPictures):
    """The same of a model that has an encoder-decoder inside."""


def _mask_of(asked: str) -> str:
    return asked.replace("input_ids", "attention_mask")


@dataclass(kw_only=True)
class LeadingBackbone(VisionLanguageBackbone):
    pictures: LeadingPictures

    def __post_init__(self) -> None:
        trunkless = self.writer.base_model is self.writer and not is_encoder_decoder(self.writer)
        if self.writer is self.model or trunkless:
            what = f"the language model inside {self.name} is none with a head of its own"
            mend = "compose one: `model: {image: ..., text: ...}`, or choose a model such as LLaVA or Idefics3"
            raise Refused(Finding("model.head", "model.name", what, mend))

    @property
    def writer(self) -> PreTrainedModel:
        """The language model inside, with its head."""
        return cast(PreTrainedModel, writer_of(self.model))

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
        asked = {
            name: cut_text(tokenizer, source + separator, self._longest_question)[0]
            for name, tokenizer in self.pictures.questions.items()
        }
        row = self._laid_out(source, separator, target, self.places(key), limit)
        return row | asked | {"pictures": [key], "cost": 0}

    @property
    def _longest_question(self) -> int:
        return int(self.model.config.qformer_config.max_position_embeddings)

    def _laid_out(self, source: str, separator: str, target: str | None, lead: list[int], limit: int) -> Features:
        row = one_text(self.tokenizer, source, separator, target, limit - len(lead))
        return {
            "input_ids": lead + row["input_ids"], "supervised": [False] * len(lead) + row["supervised"],
            "turn_ends": [end + len(lead) for end in row["turn_ends"]], "full_length": row["full_length"] + len(lead),
        }  # fmt: skip

    def check_conversations(self) -> None:
        what = f"{self.name} reads one picture before a text and goes on with it: no conversation"
        raise Refused(Finding("model.processor", "model.name", what, "use `task: vqa` or `caption`"))

    def row_media(self, rows: list[Features]) -> dict[str, Tensor]:
        """Beside pixels, questions (K, Q) and their masks, padded on the right."""
        made = super().row_media(rows)
        for name, tokenizer in self.pictures.questions.items() if made else ():
            asked = [{"input_ids": row.get(name) or tokenizer("")["input_ids"]} for row in rows]
            laid = padded(asked, "padded", tokenizer.pad_token_id or 0)
            made |= {name: laid["input_ids"], _mask_of(name): laid["attention_mask"]}
        return made

    def _embedded(self, batch: Batch) -> Tensor:
        """(K, L, D): the row's tokens, with what is made of its picture in its places."""
        model: Any = self.model
        ids_KL = batch["input_ids"]
        embeds_KLD = self.embedding(ids_KL)
        if "pixel_values" not in batch.tensors:
            return embeds_KLD
        named = [one for name in self.pictures.questions for one in (name, _mask_of(name))]
        seen = model.get_image_features(batch["pixel_values"], **{name: batch[name] for name in named})
        places = model.get_placeholder_mask(ids_KL, inputs_embeds=embeds_KLD)
        return embeds_KLD.masked_scatter(places, seen.pooler_output.to(embeds_KLD.dtype))

    def hidden(self, batch: Batch) -> Tensor:
        """(T, D)."""
        if "hidden_TD" in batch.tensors:
            return batch["hidden_TD"]
        with self._routed(batch):
            inputs = layout_inputs(batch, self.position_offset, self._shift)
            states = self.writer.base_model(inputs_embeds=self._embedded(batch), use_cache=False, **inputs)
        return states.last_hidden_state.flatten(0, 1)

    def token_logits(self, hidden_ND: Tensor) -> Tensor:
        return head_logits(self.writer, hidden_ND[None])[0]

    def sample_inputs(self) -> dict[str, Tensor]:
        from PIL import Image

        tokens, arrays = self.pictures._processed(Image.new("RGB", (8, 8), "grey"), "")
        ids_1T = torch.tensor([[*tokens, 5, 6, 7]], device=self.device)
        asked = {name: torch.tensor([[5, 6]], device=self.device) for name in self.pictures.questions}
        return {"input_ids": ids_1T, "pixel_values": torch.tensor(arrays["pixel_values"]).to(self.device)} | asked
