"""A pretrained model that writes down what it hears, token by token: an encoder of sounds with a decoder, as Whisper.

A row's tokens are its transcript's; the frames of its sound are a cost beside them. What a transcript begins with (for
Whisper its language, its task and that no times are told) is the tokenizer's rule; the token before that, which the
decoder is given first, is the model's ``decoder_start_token_id``.

Axes: K rows, L tokens of the longest transcript, S frames, T = K · L, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel

from luthier.models.audio.hearing import HearingBackbone
from luthier.models.audio.sounds import Clip
from luthier.models.backbone import Backbone
from luthier.models.modes import evaluating
from luthier.models.stacks import shifted_right
from luthier.types import Batch, Features, Finding, Refused


@dataclass(kw_only=True)
class SpeechBackbone(HearingBackbone):
    def speak(self, language: str | None) -> None:
        """Which language transcripts are in, where the tokenizer marks that; kept for whoever opens the model next.

        Raises Refused for one that it does not know.
        """
        tokenizer: Any = self.tokenizer
        if not hasattr(tokenizer, "set_prefix_tokens"):
            if language:
                what, mend = f"the tokenizer of {self.name} marks no language", "leave it out"
                raise Refused(Finding("task.language", "transcribe.language", what, mend))
            return
        try:
            tokenizer.set_prefix_tokens(language=language, task="transcribe", predict_timestamps=False)
            self.opening()
        except ValueError as error:
            what = str(error).split("\n")[0][:200]
            raise Refused(Finding("task.language", "transcribe.language", what, "name one of them")) from None
        config: Any = self.model.generation_config
        if config is not None and language:
            config.language, config.task = language, "transcribe"

    def opening(self) -> list[int]:
        """The tokens that every transcript begins with, after the one that the decoder is given first."""
        return self._after_start(getattr(self.tokenizer, "prefix_tokens", None) or [])

    def transcript_ids(self, text: str) -> list[int]:
        """With what it begins and ends with."""
        return self._after_start(self.tokenizer(text)["input_ids"])

    def _after_start(self, ids: Sequence[int]) -> list[int]:
        start = [self.model.config.decoder_start_token_id]
        return list(ids[1:] if list(ids[:1]) == start else ids)

    @property
    def trunk(self) -> PreTrainedModel:
        return cast(PreTrainedModel, self.model.base_model)

    @property
    def max_positions(self) -> int | None:
        config = self.model.config
        names = ("max_target_positions", "max_position_embeddings")
        return next((int(found) for name in names if (found := getattr(config, name, None))), None)

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    @cached_property
    def causal(self) -> bool:
        return True

    def sound_row(self, clip: Clip, limit: int | None) -> Features:
        row = super().sound_row(clip, None)
        return {"input_ids": [0], "cost": len(row["input_ids"]), "sounds": row["sounds"], "full_length": 1}

    def lay_out(self, rows: list[Features]) -> dict[str, Tensor]:
        """The targets', and the features of the sounds."""
        tensors = Backbone.lay_out(self, rows)
        return tensors | self.features(rows, max(row["cost"] for row in rows))

    def encoded(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """(K, S, D) and a mask of the frames that are real, where sounds differ in length."""
        states_KSD = self.states(batch)
        frames_K = torch.tensor([self.frames(steps) for steps in batch["steps"].tolist()], device=states_KSD.device)
        if len(set(frames_K.tolist())) == 1:
            return states_KSD, None
        return states_KSD, (torch.arange(states_KSD.shape[1], device=states_KSD.device) < frames_K[:, None]).long()

    def hidden(self, batch: Batch) -> Tensor:
        """The decoder's, of every token of the transcripts, rows end to end: (T, D)."""
        with self._routed(batch):
            states_KSD, mask_KS = self.encoded(batch)
            more = {} if mask_KS is None else {"encoder_attention_mask": mask_KS}
            decoded = self.model.get_decoder()(
                input_ids=shifted_right(self.model, batch["target_ids"]), encoder_hidden_states=states_KSD,
                use_cache=False, **more,
            )  # fmt: skip
        return decoded.last_hidden_state.flatten(0, 1)

    def probe(self, ids: list[int]) -> Batch:
        batch = super().probe([0])
        ids_1T = torch.tensor([ids], device=self.device)
        one_1 = torch.zeros(1, dtype=torch.long, device=self.device)
        batch.tensors |= {"target_ids": ids_1T, "lengths": one_1 + len(ids), "starts": one_1}
        return batch

    def sample_inputs(self) -> dict[str, Tensor]:
        return super().sample_inputs() | {"decoder_input_ids": torch.tensor([[5, 6]], device=self.device)}

    def save_readers(self, folder: Path) -> None:
        super().save_readers(folder)
        if self.model.generation_config is not None:  # how it begins, and what ends it
            self.model.generation_config.save_pretrained(folder)

    @torch.no_grad()
    def write(
        self, rows: Sequence[Features], *, max_new_tokens: int, num_beams: int, batch_size: int = 8
    ) -> list[list[int]]:
        """The ids that each sound is written down as, without what transcripts begin and end with."""
        config = self.model.config
        opening = [config.decoder_start_token_id, *self.opening()]
        room = (self.max_positions or 10**6) - len(opening)
        ends = {self.tokenizer.eos_token_id, config.eos_token_id} - {None}
        found: list[list[int]] = []
        with evaluating(self.model), self.attention("sdpa"):
            for first in range(0, len(rows), batch_size):
                some = [row | {"target_ids": [0]} for row in rows[first : first + batch_size]]
                batch = Batch(self.lay_out(some), [0] * len(some)).to(self.device)
                states_KSD, mask_KS = self.encoded(batch)
                grown = self._grown(states_KSD, mask_KS, opening, min(max_new_tokens, room), num_beams, sorted(ends))
                for row in grown[:, len(opening) :].tolist():
                    found.append(row[: next((at for at, token in enumerate(row) if token in ends), len(row))])
        return found

    def _grown(
        self, states_KSD: Tensor, mask_KS: Tensor | None, opening: list[int], room: int, beams: int, ends: list[int]
    ) -> Tensor:
        from transformers.modeling_outputs import BaseModelOutput

        prompt_KL = torch.tensor([opening], device=states_KSD.device).expand(len(states_KSD), -1)
        more = {} if mask_KS is None else {"attention_mask": mask_KS}
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else ends[0]
        # transformers' own loop; Whisper's is for windows with times, which are cut here.
        return cast(Any, GenerationMixin).generate(
            self.model, encoder_outputs=BaseModelOutput(last_hidden_state=states_KSD), decoder_input_ids=prompt_KL,
            max_new_tokens=room, num_beams=beams, do_sample=False, eos_token_id=ends, pad_token_id=pad, **more,
        )  # fmt: skip
