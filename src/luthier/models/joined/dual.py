"""A model that gives a vector of a picture and a vector of a text, in one space: CLIP's kind, told by what it has.

Where its first tower hears, sounds stand wherever pictures are spoken of.

A picture or a text that stands in several rows of a batch is computed once. Captions are padded to the longest of a
batch, or to all positions where the model was trained so (SigLIP reads its last position, pads and all): which it is,
is asked of the model itself.

Axes: I different pictures of a batch, T different texts, K rows, L columns, S width of the space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from luthier.data.lengths import cut_text, split
from luthier.models.audio.frames import still
from luthier.models.audio.recordings import Recordings
from luthier.models.backbone import Backbone
from luthier.models.joined.composed import ComposedConfig
from luthier.models.joined.dual_encoder import ComposedDualEncoder
from luthier.models.modes import evaluating
from luthier.models.stacks import stacks
from luthier.models.vision.pictures import Pictures
from luthier.types import Batch, Features, Finding, Picture, Refused, Sound

LOGITS = ("logit_scale", "logit_bias")


def compares(config: Any) -> bool:
    """Whether models of this config give vectors of pictures and of texts alike."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if isinstance(config, ComposedConfig):
        return config.fusion == "similarity"
    kind = MODEL_MAPPING.get(type(config), None)
    return all(hasattr(kind, name) for name in ("get_image_features", "get_text_features"))


@dataclass(kw_only=True)
class DualBackbone(Backbone):
    """``fixed`` is the length that every text is padded to, 0 where pads don't change its vector. ``memory`` holds what
    frozen towers made of a picture's key or a text's ids, for the projections to read."""

    pictures: Pictures | Recordings  # type: ignore[misc,assignment]
    fixed: int = 0
    memory: dict[Any, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        towers = stacks(self.model)
        still(self.model)
        if self.logit("logit_scale") is None or towers.keys() not in ({"image", "text"}, {"audio", "text"}):
            what = f"{self.name} gives no vectors of pictures and texts that are trained to be alike"
            mend = "choose a model such as CLIP or SigLIP, or `model: {image: ..., text: ..., fuse: similarity}`"
            raise Refused(Finding("model.no-vectors", "model.name", what, mend))
        with evaluating(self.model), torch.no_grad():
            states = next(iter(towers.values()))(self.pictures.blank.to(self.device)).last_hidden_state
        self.pictures.tokens = states[0].numel() // states.shape[1 if states.dim() == 4 else 2]
        if isinstance(self.pictures, Recordings):
            self.sounds = self.pictures.sounds
        self.fixed = 0 if self._bears_pads() else int(self.max_positions or 0)

    def logit(self, name: str) -> nn.Parameter | None:
        """The model's own ``logit_scale`` (a logarithm) or ``logit_bias``."""
        return getattr(self.model, name, None)

    def logit_value(self, name: str) -> float:
        """The number of one that the model has."""
        return float(cast(nn.Parameter, self.logit(name)).detach())

    def _bears_pads(self) -> bool:
        ids = self.tokenizer("a")["input_ids"]
        rows = [{"input_ids": ids}, {"input_ids": [*ids[:-1], ids[0], ids[0], ids[-1]]}]
        with evaluating(self.model), torch.no_grad():
            alone, beside = (self.text_vectors(self._batch(some)) for some in (rows[:1], rows))
        return torch.allclose(alone[0], beside[0], atol=1e-4)

    def _batch(self, rows: list[Features]) -> Batch:
        return Batch(super().lay_out(rows), [0] * len(rows)).to(self.device)

    @property
    def embedding(self) -> nn.Embedding:
        return stacks(self.model)["text"].get_input_embeddings()  # type: ignore[operator]

    @property
    def has_own_head(self) -> bool:
        """Where what brings both into one space is new."""
        return any(name not in LOGITS for name in self.fresh)

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """What brings both into one space: the projections, where there are such."""
        outside = tuple(f"{name}." for name in self.seams.head) or ("model.fusion.",)
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.startswith(outside) or (name in self.fresh and name not in LOGITS)
        }

    def trunk_parameters(self) -> list[nn.Parameter]:
        outside = {*self.head_parameters(), *LOGITS}
        return [p for name, p in self.model.named_parameters() if name not in outside]

    def choose_layout(self, packing: str) -> None:
        self.layout, self.unpacked_because = "padded", "pictures stand beside the texts"

    def pair_row(self, pictures: Sequence[Picture | Sound], texts: Sequence[str], limit: int | None) -> Features:
        """One picture or none, with texts that say the same of it or none: ``input_ids`` of the texts end to end,
        ``lengths`` of each, ``pictures`` and what they ``cost``. Raises BadPicture."""
        told = [self._ids(text, limit) for text in texts]
        return {
            "input_ids": [token for ids, _ in told for token in ids],
            "lengths": [len(ids) for ids, _ in told],
            "pictures": [self.pictures.key(one) for one in pictures],  # type: ignore[arg-type]
            "cost": self.pictures.tokens * len(pictures),
            "full_length": max((full for _, full in told), default=1),
        }

    def _ids(self, text: str, limit: int | None) -> tuple[list[int], int]:
        """Ids and how many there were before any cut."""
        ids, full = cut_text(self.tokenizer, text, min(n for n in (limit, self.fixed, 10**9) if n))
        return ids + [self.tokenizer.pad_token_id] * (self.fixed - len(ids)), full

    def lay_out(self, rows: list[Features]) -> dict[str, Tensor]:
        """Different texts, padded, and different pictures; ``text_of`` and ``picture_of`` say which each row has."""
        keys, texts = self.pictures.shown(rows), contents(rows)[1]
        shown = {one: at for at, one in enumerate(dict.fromkeys(keys))}
        place = {ids: at for at, ids in enumerate(dict.fromkeys(texts))}
        known = self.memory.keys() >= {*(key for key, _ in shown), *place}
        tensors: dict[str, Tensor] = {}
        if keys:
            states = torch.stack([self.memory[key] for key, _ in shown]) if known else self.pictures.pixels(list(shown))
            tensors["picture_states" if known else "pixel_values"] = states
        if texts and known:
            tensors["text_states"] = torch.stack([self.memory[ids] for ids in place])
        elif texts:
            tensors |= super().lay_out([{"input_ids": list(ids)} for ids in place])
        tensors["text_of"] = torch.tensor([place[ids] for ids in texts], dtype=torch.long)
        tensors["picture_of"] = torch.tensor([shown[key] for key in keys], dtype=torch.long)
        return tensors

    @property
    def projections(self) -> dict[str, nn.Module]:
        """What brings each tower's vector into the space, by role; none where that is not one module each."""
        owner: Any = self.model.base_model.fusion if isinstance(self.model, ComposedDualEncoder) else self.model
        names = [("image", ("project_image", "visual_projection")), ("text", ("project_text", "text_projection"))]
        named = {role: getattr(owner, name) for role, several in names for name in several if hasattr(owner, name)}
        return named if len(named) == 2 else {}

    def remember(self, rows: list[Features], batch: Batch, frozen: set[str]) -> None:
        """Keep what the towers make of the pictures and texts of a batch: for towers that do not train."""
        keys, texts = (list(dict.fromkeys(some)) for some in contents(rows))
        for role, some, make in (("image", keys, self.picture_vectors), ("text", texts, self.text_vectors)):
            taken: list[Tensor] = []
            hook = self.projections[role].register_forward_pre_hook(lambda _, given, to=taken: to.append(given[0]))
            try:
                make(batch)
            finally:
                hook.remove()
            self.memory.update(zip(some, taken[0].float().cpu(), strict=True))

    def picture_vectors(self, batch: Batch) -> Tensor:
        """(I, S), of their own length."""
        if "picture_states" in batch.tensors:
            return self.projections["image"](batch["picture_states"])
        return _pooled(cast(Any, self.model).get_image_features(pixel_values=batch["pixel_values"]))

    def text_vectors(self, batch: Batch) -> Tensor:
        """(T, S), of their own length."""
        if "text_states" in batch.tensors:
            return self.projections["text"](batch["text_states"])
        return _pooled(self._read(batch))

    def _read(self, batch: Batch) -> Any:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        if self._shift:  # past a prefix
            columns_L = torch.arange(inputs["input_ids"].shape[1], device=self.device)
            inputs["position_ids"] = (columns_L + self._shift).expand_as(inputs["input_ids"])
        return cast(Any, self.model).get_text_features(**inputs)

    def hidden(self, batch: Batch) -> Tensor:
        """Of the texts of a probe, (T, D), after the other tower has run: for what is asked of a model at work."""
        self.picture_vectors(batch)
        return self._read(batch).last_hidden_state.flatten(0, 1)

    def probe(self, ids: list[int]) -> Batch:
        batch = super().probe(ids)
        batch.tensors["pixel_values"] = self.pictures.blank.to(self.device)
        return batch

    @property
    def trunk(self) -> PreTrainedModel:
        """All of it: the projections have no dropout that a frozen trunk would keep off."""
        return self.model

    def sample_inputs(self) -> dict[str, Tensor]:
        ids_1L = torch.tensor([self._ids("a", None)[0]], device=self.device)
        return {"input_ids": ids_1L, "pixel_values": self.pictures.blank.to(self.device)}

    def described(self) -> dict[str, Any]:
        return {"text_length": self.fixed, "logit_bias": self.logit("logit_bias") is not None}

    def save_readers(self, folder: Path) -> None:
        super().save_readers(folder)
        self.pictures.save(folder)


def contents(rows: list[Features]) -> tuple[list[str], list[tuple[int, ...]]]:
    """The keys of their pictures, and their texts' ids."""
    texts = [tuple(ids) for row in rows for ids in split(row["input_ids"], row["lengths"])]
    return [key for row in rows for key in row["pictures"]], texts


def _pooled(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output
