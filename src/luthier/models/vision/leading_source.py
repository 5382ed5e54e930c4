"""A model whose picture is a few tokens before its whole source, and whose language model inside is an encoder-decoder:
BLIP-2 and InstructBLIP with Flan-T5. The encoder reads picture and question, the decoder writes the answer.

Axes: K rows, S longest source, L longest target, T = K · L, D hidden width.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from torch import Tensor

from luthier.data.text.document import source_and_target
from luthier.models.stacks import decode
from luthier.models.vision.leading import LeadingBackbone, SourcePictures
from luthier.types import Batch, Features


@dataclass(kw_only=True)
class LeadingSourceBackbone(LeadingBackbone):
    pictures: SourcePictures

    def _laid_out(self, source: str, separator: str, target: str | None, lead: list[int], limit: int) -> Features:
        """``target_ids`` end in end of text; what ``separator`` has besides white space at its end ends the source."""
        row = source_and_target(self.tokenizer, source + separator.rstrip(), target, limit - len(lead))
        full = max(row["full_length"], len(row["input_ids"])) + len(lead)
        return row | {"input_ids": lead + row["input_ids"], "full_length": full}

    def at_work(self) -> None:
        from PIL import Image

        held = io.BytesIO()
        Image.new("RGB", (64, 64), "grey").save(held, "PNG")
        key = self.pictures.key(held.getvalue())
        row = {"row": 0, "input_ids": [*self.places(key), 5], "target_ids": [5, 6], "pictures": [key]}
        self.hidden(Batch(self.lay_out([row]), [0]).to(self.device))

    def hidden(self, batch: Batch) -> Tensor:
        """The decoder's, of every token of the targets: (T, D)."""
        if "hidden_TD" in batch.tensors:
            return batch["hidden_TD"]
        with self._routed(batch):
            source = {"inputs_embeds": self._embedded(batch), "attention_mask": batch["attention_mask"]}
            return decode(self.writer, source, batch["target_ids"]).flatten(0, 1)

    def sample_inputs(self) -> dict[str, Tensor]:
        return super().sample_inputs() | {"decoder_input_ids": torch.tensor([[5, 6]], device=self.device)}
