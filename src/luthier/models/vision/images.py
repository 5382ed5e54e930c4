"""A pretrained model that reads pictures alone: hidden states of its patches or places, and its classifier on them.

Its rows are padded rows like any others, of as many tokens as the model gives hidden states for one picture, so that
pooling, heads and caches work on them as on text. Where the head takes what the trunk has pooled, by a rule of the
trunk's own, a picture is one token: the pooled vector. Which it is, is asked of the model: the head on the hidden
states must give the model's own logits.

Axes: K rows (pictures), P hidden states of a picture, T = K · P, D width, C classes, H × W places of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.models.heads import picture_logits
from luthier.models.joined.composed import ComposedConfig
from luthier.models.joined.dual import compares
from luthier.models.modes import evaluating
from luthier.models.vision.pictures import Pictures
from luthier.models.wordless import Wordless
from luthier.types import Batch, Features, Finding, Picture, Refused


class NoText:
    """Stands where a tokenizer would, of a model that reads no text."""

    pad_token_id = eos_token_id = 0
    unk_token_id = None
    model_max_length = 10**9
    chat_template = None
    all_special_ids: tuple[int, ...] = ()
    added_tokens_decoder: dict[int, Any] = {}

    def decode(self, ids: Any, **options: Any) -> str:
        return "[picture]" if ids else ""

    def save_pretrained(self, folder: Path) -> None:
        pass


def reads_pictures_alone(config: Any, needs: str = "") -> bool:
    """Whether models of this config, opened for what is needed, classify pictures or encode them for another model, and
    read no text. Of one that compares pictures with texts, a classifier is its image encoder with a head (CLIP's)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

    kind, sorts = MODEL_MAPPING.get(type(config), None), type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    if needs in ("sequence_logits", "hidden") and sorts and compares(config):
        return True
    sees = config.base_config_key == "vision_config" and getattr(kind, "main_input_name", "") == "pixel_values"
    return (sorts or sees) and type(config) not in TOKENIZER_MAPPING


def image_tower(config: Any, needs: str) -> Any | None:
    """The config of the image encoder of a model that compares pictures with texts, where vectors of pictures are all
    that is needed; None of another model, and where transformers does not open the encoder by itself."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if needs != "hidden" or isinstance(config, ComposedConfig) or not compares(config):
        return None
    tower = getattr(config, "vision_config", None)
    return tower if type(tower) in MODEL_MAPPING else None


@dataclass(kw_only=True)
class ImageBackbone(Wordless):
    """``grid`` is (H, W) of what a convolutional trunk gives, None for one that gives a sequence."""

    pictures: Pictures  # type: ignore[misc]
    grid: tuple[int, int] | None = None
    pooled: bool = False
    _width: int = field(default=0)

    def __post_init__(self) -> None:
        with evaluating(self.model), torch.no_grad():
            output = self.trunk(pixel_values=self.pictures.blank.to(self.device))
        last = output.last_hidden_state
        self.grid = (last.shape[2], last.shape[3]) if last.dim() == 4 else None
        self._measure(last)
        if self.needs == "sequence_logits" and not self._head_agrees():
            self.pooled, self.grid = True, None
            self._measure(output.pooler_output[:, None])
            if not self._head_agrees():
                what = f"the head of {self.name} asks for more than hidden states"
                raise Refused(Finding("model.head", "model.name", what, "choose a model of another family"))

    def _measure(self, states: Tensor) -> None:
        states_KPD = _as_sequence(states)
        self.pictures.tokens, self._width = states_KPD.shape[1], states_KPD.shape[2]

    def _head_agrees(self) -> bool:
        pixels = self.pictures.blank.to(self.device)
        try:
            with evaluating(self.model), torch.no_grad():
                hidden_KPD = self._states(pixels)
                ours = picture_logits(self.model, hidden_KPD, self.grid, pooled=self.pooled)
                return torch.allclose(ours, self.model(pixel_values=pixels).logits, atol=1e-5)
        except (AttributeError, TypeError, RuntimeError):
            return False

    def _states(self, pixels: Tensor) -> Tensor:
        output = self.trunk(pixel_values=pixels)
        return _as_sequence(output.pooler_output[:, None] if self.pooled else output.last_hidden_state)

    @property
    def width(self) -> int:
        return self._width

    @cached_property
    def reads(self) -> str:
        """Asked of the head: the gradient of its logits is nonzero at just those hidden states."""
        if self.pictures.tokens == 1:
            return "first"
        like = next(self.model.parameters())
        draw = torch.Generator().manual_seed(0)
        hidden_1PD = torch.randn(1, self.pictures.tokens, self.width, generator=draw).to(like.device, like.dtype)
        with evaluating(self.model), torch.enable_grad():
            logits = picture_logits(self.model, hidden_1PD.requires_grad_(), self.grid, pooled=self.pooled)
            (grad_1PD,) = torch.autograd.grad(logits.square().sum(), hidden_1PD)
        read_P = grad_1PD[0].abs().sum(-1) > 0
        return "first" if bool(read_P[0]) and not bool(read_P[1:].any()) else "all"

    def picture_row(self, pictures: list[Picture], text: str | None, limit: int | None) -> Features:
        """``input_ids`` (one for each hidden state, read by nothing) and the ``pictures``.

        Raises BadPicture, and Refused for a row of which the model could read but a part.
        """
        if text or len(pictures) > 1:
            what = f"{self.name} reads one picture a row, and this has " + ("a text too" if text else "several")
            raise Refused(Finding("model.no-text", "model.name", what, "compose one: `model: {image: ..., text: ...}`"))
        tokens = self.pictures.tokens
        keys = [self.pictures.key(one) for one in pictures]
        return {"input_ids": [0] * tokens, "pictures": keys, "full_length": tokens}

    def lay_out(self, rows: list[Features]) -> dict[str, Tensor]:
        tensors = super().lay_out(rows)
        if "hidden_LD" not in rows[0]:
            tensors["pixel_values"] = self.pictures.pixels(self.pictures.shown(rows))
        return tensors

    def probe(self, ids: list[int]) -> Batch:
        ids_1P = torch.zeros(1, self.pictures.tokens, dtype=torch.long, device=self.device)
        return Batch({"input_ids": ids_1P, "pixel_values": self.pictures.blank.to(self.device)}, [0])

    def sample_inputs(self) -> dict[str, Tensor]:
        return {"pixel_values": self.pictures.blank.to(self.device)}

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states of every picture, end to end: (T, D)."""
        if "hidden_TD" in batch.tensors:
            return batch["hidden_TD"]
        with self._routed(batch):
            return self._states(batch["pixel_values"]).flatten(0, 1)

    def sequence_logits(self, hidden_TD: Tensor, batch: Batch) -> Tensor:
        """(T, D) → (K, C): the classification head, at the positions that it reads."""
        hidden_KPD = hidden_TD.unflatten(0, (len(batch["starts"]), -1))
        if self.reads == "first":
            hidden_KPD = hidden_KPD[:, :1]
        return picture_logits(self.model, hidden_KPD, self.grid, pooled=self.pooled)

    def choose_layout(self, packing: str) -> None:
        self.layout, self.unpacked_because = "padded", "pictures are of one size"

    def save_readers(self, folder: Path) -> None:
        self.pictures.save(folder)


def _as_sequence(states: Tensor) -> Tensor:
    """(K, C, H, W) of a convolutional trunk → (K, H · W, C); (K, P, D) as it is."""
    return states.flatten(2).transpose(1, 2) if states.dim() == 4 else states
