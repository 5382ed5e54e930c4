"""A model of pictures that reads its prompt both ways and writes from left to right (a prefix language model: Raffel et
al. 2020, arXiv 1910.10683, section 3.2.1), such as PaliGemma.

Its processor lays out a whole row, pictures, prompt and what is written of it (``suffix``), and rows are taken from it
as they are. Which of a batch's tokens are a prompt is told to the model by ``token_type_ids``: 0 there, 1 after it.

Axes: K rows, L columns.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.models.vision.processed import BESIDE, TEXT_TENSORS, ProcessedPictures
from luthier.models.vision.vision_language import VisionLanguageBackbone
from luthier.types import Batch, Features, Finding, Picture, Refused

TYPED = "token_type_ids"
SUFFIX = "suffix"


def lays_out_rows(processor: Any) -> bool:
    """Whether it takes a prompt and what is written of it apart."""
    return SUFFIX in inspect.signature(processor.__call__).parameters


@dataclass
class PrefixPictures(ProcessedPictures):
    """``closing``: how many tokens end a prompt, whatever is asked."""

    one_answer = True
    closing: int = 0
    _grey: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        from PIL import Image

        self._grey = Image.new("RGB", (8, 8), "grey")
        super().__post_init__()
        prompt, _ = self.laid_out(self.mark + BESIDE, BESIDE, 1)
        (beside,) = self.tokenizer(BESIDE, add_special_tokens=False)["input_ids"]
        self.closing = len(prompt) - prompt.index(beside) - 1

    def _processed(self, image: Any, mark: str) -> tuple[list[int], dict[str, np.ndarray]]:
        made = self.processor(text=mark + BESIDE, suffix=BESIDE, images=[image], return_tensors="np")
        arrays = {name: np.asarray(value) for name, value in made.items() if name not in {*TEXT_TENSORS, "labels"}}
        tokens = [int(one) for one in made["input_ids"][0] if one == self.image_id]
        written = made["input_ids"][0][made[TYPED][0] == 1].tolist()
        if written != [*self.tokenizer(BESIDE, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]:
            raise ValueError("what is to be written does not end the row")
        return tokens, arrays

    def laid_out(self, source: str, target: str | None, pictures: int) -> tuple[list[int], list[int]]:
        """The ids of a prompt with its pictures, and of what is written of it."""
        given = {} if target is None else {SUFFIX: target}
        made = self.processor(text=source, images=[[self._grey] * pictures], return_tensors="np", **given)
        ids, types = (made[name][0].tolist() for name in ("input_ids", TYPED))
        return [token for token, kind in zip(ids, types, strict=True) if kind == 0], [
            token for token, kind in zip(ids, types, strict=True) if kind == 1
        ]


@dataclass(kw_only=True)
class PrefixBackbone(VisionLanguageBackbone):
    pictures: PrefixPictures

    @property
    def lays_out_rows(self) -> bool:
        return True

    def row_of(
        self, source: str, separator: str, target: str | None, pictures: list[Picture], limit: int
    ) -> Features:  # fmt: skip
        """``source`` and ``target`` as the processor lays them out; too long a source loses its end, pictures nothing.
        Raises BadPicture, and Refused where there is no picture, or marks and pictures are not as many."""
        keys = [self.pictures.key(one) for one in pictures]
        if not keys or source.count(self.mark) != len(keys) or self.mark in (target or ""):
            what = f"the text has {source.count(self.mark)} marks {self.mark}, and the row {len(keys)} pictures"
            raise Refused(Finding("data.picture-marks", "text", what, "give a picture, and a mark for each or none"))
        prompt, written = self.pictures.laid_out(source + separator.rstrip(), target and target.strip(), len(keys))
        full, excess = len(prompt) + len(written), len(prompt) + len(written) - limit
        last = len(prompt) - self.pictures.closing
        spare = [at for at in range(last) if prompt[at] not in (self.image_id, self.tokenizer.bos_token_id)]
        gone = {*spare[len(spare) - min(excess, len(spare)) :]} if excess > 0 else set()
        prompt = [token for at, token in enumerate(prompt) if at not in gone]
        if excess > len(spare):
            written = []
        return {
            "input_ids": prompt + written, "supervised": [False] * len(prompt) + [True] * len(written),
            "turn_ends": [len(prompt) + len(written) - 1] if written else [], "full_length": full, "pictures": keys,
            "prompt_length": len(prompt), "cost": 0,
        }  # fmt: skip

    def check_conversations(self) -> None:
        what = f"{self.name} reads a prompt with pictures before it and writes one answer: no conversation"
        raise Refused(Finding("model.processor", "model.name", what, "use `task: vqa` or `caption`"))

    @property
    def types(self) -> list[str]:  # type: ignore[override]
        return []

    @property
    def prompt_problem(self) -> str:
        return "this model tells by their ids what is its prompt, and virtual tokens have none"

    def lay_out(self, rows: list[Features]) -> dict[str, Tensor]:
        tensors = super().lay_out(rows)
        if "hidden_LD" in rows[0]:
            return tensors
        if any(row.get("pictures") and "prompt_length" not in row for row in rows):
            what = f"{self.name} reads a prompt both ways, and this task does not say where a row's prompt ends"
            raise Refused(Finding("model.processor", "task", what, "use `task: vqa` or `caption`"))
        prompts_K = torch.tensor([row.get("prompt_length", 0) for row in rows])
        columns_L = torch.arange(tensors["input_ids"].shape[1])
        return tensors | {TYPED: (columns_L >= prompts_K[:, None]).long()}

    def media(self, batch: Batch) -> dict[str, Any]:
        """A batch that says nothing of prompts has none."""
        return super().media(batch) | {TYPED: batch.tensors.get(TYPED, torch.ones_like(batch["input_ids"]))}

    def generation_inputs(self, ids_KL: Tensor, mask_KL: Tensor) -> dict[str, Tensor]:
        return super().generation_inputs(ids_KL, mask_KL) | {TYPED: torch.zeros_like(ids_KL)}
