"""A pretrained model that hears: hidden states of a sound's frames, and the head on them, of classes or of letters.

Its rows are padded rows like any others, of as many tokens as the model gives hidden states for the sound, so that
budgets, pooling, heads and caches work on them as on text. Where zeros behind a shorter sound would change what the
model makes of it (Wav2Vec2 with group normalisation), sounds of one length go through it together and no others: which
it is, is asked of the model. Time masks and the layers that it would leave out at random in training are off: what is
learned from a row is a pure function of the seed, the epoch and the row (see ``data/media/augment_sound.py``).

Axes: K rows, L frames of the longest, T = K · L, D width, C classes or letters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from luthier.data.media.sounds import BadSound
from luthier.models.audio.frames import Frames, still
from luthier.models.audio.hiding import frame_masks, masked
from luthier.models.audio.sounds import Clip, Sounds
from luthier.models.backbone import Backbone
from luthier.models.heads import sound_logits
from luthier.models.modes import evaluating
from luthier.models.packing import by_length
from luthier.models.wordless import Wordless
from luthier.types import Batch, Features, Finding, Refused

MASK_TIME = "mask_time_indices"


@dataclass(kw_only=True)
class HearingBackbone(Wordless):
    """``pooled``: the head takes what the trunk pools by a rule of its own, one token a row."""

    sounds: Sounds  # type: ignore[misc]
    pooled: bool = False
    apart: bool = False
    """Whether sounds of different lengths must not lie in one batch."""

    def __post_init__(self) -> None:
        still(self.model)
        self._frames = Frames(self.model, self.sounds, self._run)
        if self.needs == "sequence_logits" and not self._head_agrees():
            self.pooled = True
            if not self._head_agrees():
                what = f"the head of {self.name} asks for more than hidden states"
                raise Refused(Finding("model.head", "model.name", what, "choose a model of another family"))
        if self.sounds.capacity is None:
            self.apart = not self._bears_pads()

    def _head_agrees(self) -> bool:
        """Whether the head on the hidden states gives the model's own logits."""
        features = self.sounds.blank()[None].to(self.device)
        try:
            with evaluating(self.model), torch.no_grad():
                ours = sound_logits(self.model, self._run(features), pooled=self.pooled)
                return torch.allclose(ours, self.model(features).logits, atol=1e-5)
        except (AttributeError, TypeError, RuntimeError, IndexError):
            return False

    def _bears_pads(self) -> bool:
        """Whether a sound beside a longer one is heard as it is alone."""
        short, long = self.sounds.blank(0.5), self.sounds.blank(1.0)
        with evaluating(self.model), torch.no_grad():
            alone = self._run(short[None].to(self.device))
            features, steps_K = self.sounds.batch([short, long])
            try:
                beside = self._run(features.to(self.device), steps_K.to(self.device))
            except TypeError:  # it takes no mask
                return False
        return torch.allclose(alone[0], beside[0, : alone.shape[1]], atol=1e-4)

    def _run(self, features: Tensor, steps_K: Tensor | None = None, mask_KL: Tensor | None = None) -> Tensor:
        """(K, L, D). ``steps_K`` where rows are of different lengths; ``mask_KL`` marks frames that are hidden."""
        inputs: dict[str, Any] = {self.sounds.name: features}
        if steps_K is not None:
            inputs["attention_mask"] = (
                torch.arange(features.shape[1], device=features.device) < steps_K[:, None]
            ).long()
        if mask_KL is not None:
            inputs[MASK_TIME] = mask_KL
            self.model.config.apply_spec_augment = True
        try:
            output = self.ear(**inputs)
        finally:
            if mask_KL is not None:
                self.model.config.apply_spec_augment = False
        return output.pooler_output[:, None] if self.pooled else output.last_hidden_state

    @property
    def ear(self) -> PreTrainedModel:
        """What is given the features."""
        return cast(PreTrainedModel, self.model.get_encoder()) if self.encoder_decoder else self.trunk

    @property
    def width(self) -> int:
        config = self.model.config
        return int(getattr(config, "encoder_config", config).hidden_size)

    @cached_property
    def reads(self) -> str:
        return "first" if self.pooled else "all"

    @property
    def blank_id(self) -> int:
        """Of CTC: as transformers has it, the padding token."""
        return int(self.model.config.pad_token_id)

    @cached_property
    def between_id(self) -> int:
        """The letter between two words."""
        between = getattr(self.tokenizer, "word_delimiter_token", None) or " "
        return cast(int, self.tokenizer.convert_tokens_to_ids(between))

    @cached_property
    def frames_a_second(self) -> float:
        two, four = (self.frames(len(self.sounds.blank(seconds))) for seconds in (2.0, 4.0))
        return (four - two) / 2

    def frames(self, steps: int) -> int:
        """How many hidden states the model gives for features of so many steps."""
        return 1 if self.pooled else self._frames(steps)

    def sound_row(self, clip: Clip, limit: int | None) -> Features:
        """``input_ids`` (one for each hidden state, read by nothing) and the key of the ``sounds``; cut to ``limit``
        frames, or to what the extractor takes, where there is a limit. ``full_length`` is before any cut.

        Raises BadSound.
        """
        heard, capacity = self.sounds.heard(clip), self.sounds.capacity
        full = self.frames(heard.steps)
        if capacity is not None and heard.samples > capacity:
            if limit is None:
                seconds = (heard.samples / self.sounds.rate, capacity / self.sounds.rate)
                what = "is {:.1f} s long, and this model hears {:.1f} s".format(*seconds)
                raise BadSound(what, "cut it, or set `overlong: truncate`")
            full = -(-full * heard.samples // capacity)
        elif limit is not None and full > limit and not self.pooled:
            heard = self._cut(clip, heard.samples, full, limit)
        frames = self.frames(heard.steps)
        return {"input_ids": [0] * frames, "sounds": [heard.key], "full_length": full}

    def _cut(self, clip: Clip, samples: int, full: int, limit: int) -> Any:
        start = clip.part[0] if clip.part else 0
        keep = samples * limit // full
        while True:
            heard = self.sounds.heard(Clip(clip.sound, clip.speed, (start, start + keep)))
            if self.frames(heard.steps) <= limit:
                return heard
            keep -= max(1, samples // full)

    def lay_out(self, rows: list[Features]) -> dict[str, Tensor]:
        tensors = super().lay_out(rows)
        return tensors if "hidden_LD" in rows[0] else tensors | self.features(rows, tensors["input_ids"].shape[1])

    def features(self, rows: list[Features], longest: int) -> dict[str, Tensor]:
        """What the model hears of rows, the longest of which has as many frames, and which of these are hidden."""
        tensors: dict[str, Tensor] = {}
        tensors["features"], tensors["steps"] = self.sounds.batch([masked(self.sounds, row) for row in rows])
        masks = [row.get("masks", {}).get("frames", ()) for row in rows]
        if any(masks) and hasattr(self.ear, "masked_spec_embed"):
            tensors["mask_frames"] = frame_masks(masks, longest)
        return tensors

    @cached_property
    def hides_frames(self) -> bool:
        """Whether it hears bare samples, so that time is hidden in its frames: by a vector that it has for that."""
        return self.sounds.blank().dim() == 1

    def probe(self, ids: list[int]) -> Batch:
        blank = self.sounds.blank()[None]
        frames = self.frames(blank.shape[1])
        tensors = {"input_ids": torch.zeros(1, frames, dtype=torch.long), "features": blank}
        tensors |= {"steps": torch.tensor([blank.shape[1]]), "lengths": torch.tensor([frames])}
        return Batch(tensors, [0]).to(self.device)

    def sample_inputs(self) -> dict[str, Tensor]:
        return {self.sounds.name: self.sounds.blank()[None].to(self.device)}

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states of every frame, rows end to end: (T, D)."""
        if "hidden_TD" in batch.tensors:
            return batch["hidden_TD"]
        with self._routed(batch):
            return self.states(batch).flatten(0, 1)

    def states(self, batch: Batch) -> Tensor:
        """(K, L, D)."""
        features, steps_K, mask_KL = batch["features"], batch["steps"], batch.tensors.get("mask_frames")
        if len(set(steps_K.tolist())) == 1:
            return self._run(features, None, mask_KL)
        return self._apart(features, steps_K, mask_KL) if self.apart else self._run(features, steps_K, mask_KL)

    def _apart(self, features: Tensor, steps_K: Tensor, mask_KL: Tensor | None) -> Tensor:
        """(K, L, D), rows of each length by themselves."""
        longest = self.frames(features.shape[1])

        def run(at: Tensor, steps: int) -> Tensor:
            mask = mask_KL[at, : self.frames(steps)] if mask_KL is not None else None
            states = self._run(features[at, :steps], None, mask)
            return torch.nn.functional.pad(states, (0, 0, 0, longest - states.shape[1]))

        return by_length(steps_K, run)

    def sequence_logits(self, hidden_TD: Tensor, batch: Batch) -> Tensor:
        """(T, D) → (K, C): the classification head, on rows of one length at a time."""
        starts_K, lengths_K = batch["starts"], batch["lengths"]

        def run(at: Tensor, length: int) -> Tensor:
            places = starts_K[at, None] + torch.arange(length, device=hidden_TD.device)
            return sound_logits(self.model, hidden_TD[places], pooled=self.pooled)

        return by_length(torch.ones_like(lengths_K) if self.reads == "first" else lengths_K, run)

    def frame_logits(self, hidden_KLD: Tensor) -> Tensor:
        """(K, L, D) → (K, L, C): letters, and the blank."""
        return sound_logits(self.model, hidden_KLD, pooled=False)

    def choose_layout(self, packing: str) -> None:
        self.layout, self.unpacked_because = "padded", "sounds are heard one a row"

    def save_readers(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        self.sounds.save(folder)

    def read_as(self, other: Backbone) -> None:
        super().read_as(other)
        assert other.sounds is not None
        self.sounds = other.sounds
