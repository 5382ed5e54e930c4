"""A pretrained model that reads pictures and writes text: LLaVA, Idefics3, SmolVLM, Gemma 3, Qwen-VL and others, told
by what they have and not by name.

Its own processor says which tokens a picture is and makes its tensors; its own forward puts hidden states where these
tokens stand. Rows are padded: what it does with pictures knows nothing of packed rows.

Axes: K rows, L columns, I pictures.
"""

from __future__ import annotations

import inspect
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from luthier.models.vision.illustrated import Illustrated
from luthier.models.vision.processed import ProcessedPictures
from luthier.types import Batch, Features, Finding, Refused

TYPES = ("token_type_ids", "mm_token_type_ids")
"""What some models ask for: 1 where a picture is, 0 where text is."""


@dataclass(kw_only=True)
class VisionLanguageBackbone(Illustrated):
    pictures: ProcessedPictures

    def __post_init__(self) -> None:
        if self.model.base_model is self.model:
            what = f"the head of {self.name} is one of a model inside it: it has no trunk that gives hidden states"
            mend = "compose one: `model: {image: ..., text: ...}`, or choose a model such as LLaVA or Idefics3"
            raise Refused(Finding("model.head", "model.name", what, mend))

    @property
    def mark(self) -> str:
        return self.pictures.mark

    @property
    def mark_id(self) -> int:
        return self.pictures.mark_id

    @property
    def image_id(self) -> int:
        return self.pictures.image_id

    def places(self, key: str) -> list[int]:
        return self.pictures.places(key)

    @cached_property
    def types(self) -> list[str]:
        return [name for name in TYPES if name in inspect.signature(self.trunk.forward).parameters]

    @property
    def prompt_problem(self) -> str:
        if not self.types:
            return ""
        return "this model tells by their ids which tokens are pictures, and virtual ones have none"

    def at_work(self) -> None:
        """With a picture, so that both towers run."""
        from PIL import Image

        held = io.BytesIO()
        Image.new("RGB", (64, 64), "grey").save(held, "PNG")
        key = self.pictures.key(held.getvalue())
        row = {"row": 0, "input_ids": [5, *self.places(key), 6], "pictures": [key], "prompt_length": 0}
        self.hidden(Batch(self.lay_out([row]), [0]).to(self.device))

    def row_media(self, rows: list[Features]) -> dict[str, Tensor]:
        keys = [key for row in rows for key in row.get("pictures", ())]
        return self.pictures.tensors(keys) if keys else {}

    def check_search(self, rows: list[Features], num_beams: int) -> None:
        if num_beams > 1 and any(len(row.get("pictures", ())) > 1 for row in rows):
            what = "transformers repeats pictures one by one for each beam, and these rows have several"
            raise Refused(Finding("recipe.combination", "num_beams", what, "search greedily: `num_beams: 1`"))

    def media(self, batch: Batch) -> dict[str, Any]:
        given: dict[str, Any] = {name: batch[name] for name in self.pictures.names if name in batch.tensors}
        return given | self._typed(batch["input_ids"])

    def _typed(self, ids_KL: Tensor) -> dict[str, Tensor]:
        return {name: (ids_KL == self.pictures.image_id).long() for name in self.types}

    def generation_inputs(self, ids_KL: Tensor, mask_KL: Tensor) -> dict[str, Tensor]:
        return super().generation_inputs(ids_KL, mask_KL) | self._typed(ids_KL)

    def choose_layout(self, packing: str) -> None:
        self.layout, self.unpacked_because = "padded", "its own code puts pictures into rows"

    def save_readers(self, folder: Path) -> None:
        self.pictures.processor.tokenizer = self.tokenizer
        self.pictures.processor.chat_template = self.tokenizer.chat_template  # else the one that it came with is saved
        self.pictures.processor.save_pretrained(folder)
