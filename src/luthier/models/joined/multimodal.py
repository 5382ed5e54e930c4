"""A model that reads text and pictures, or text and sounds, together: rows of text in or beside which these are.

Where pictures stand in the row, each is as many tokens as the model makes of it, at its mark in the text,
or before the text where there is none; they are never cut off. Where they stand beside it, the row is the text alone.

Axes: I pictures, K rows, L columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luthier.data.lengths import cut_text, sequences
from luthier.fusion.common import Inside
from luthier.fusion.cross_attention import Gates
from luthier.models.audio.frames import Frames, still
from luthier.models.audio.recordings import Recordings
from luthier.models.joined.composed import IMAGE_TOKEN, SOUND_TOKEN
from luthier.models.packing import laid_out_by_row
from luthier.models.vision.illustrated import Illustrated
from luthier.types import Batch, Features, Finding, Picture, Refused

MEDIA = ("pixel_values", "picture_of", "picture_states", "picture_rows", "picture_lengths", "text_states")


@dataclass(kw_only=True)
class MultimodalBackbone(Illustrated):
    def __post_init__(self) -> None:
        if self.needs == "token_logits" and not self.fusion.writes:
            what = "`fuse: " + self.model.config.fusion + "` joins pictures to what the text model has read: "
            what += "it can't be written from"
            mend = "use `projection`, `{concatenation: {when: early}}`, or `cross_attention` with a decoder"
            raise Refused(Finding("recipe.combination", "model.fuse", what, mend))
        config, trunk = self.model.config, self.trunk
        if isinstance(self.pictures, Recordings):
            self._listen(self.pictures, trunk)
        self.pictures.tokens = self.fusion.tokens(config.picture_tokens) if self.in_row else config.picture_tokens

    def _listen(self, recordings: Recordings, trunk: Any) -> None:
        """Raises Refused where it is not to write."""
        if self.needs != "token_logits":
            what = "sounds and a text model are joined in order to write"
            mend = "use `task: transcribe` or `chat`, or `fuse: similarity` with `task: match`"
            raise Refused(Finding("model.no-sounds", "model.fuse", what, mend))
        self.sounds = recordings.sounds
        still(self.model)
        recordings.frames = Frames(trunk.image, recordings.sounds, trunk.pictures)
        recordings.in_time = bool(self.model.config.image_config.is_encoder_decoder)

    @property
    def first_role(self) -> str:
        """Of the tower that is not the text's."""
        return "audio" if isinstance(self.pictures, Recordings) else "vision"

    @property
    def fusion(self) -> Any:
        return self.trunk.fusion

    @property
    def in_row(self) -> bool:
        """Whether pictures stand in the row, as tokens."""
        return bool(self.fusion.in_row)

    @property
    def width(self) -> int:
        return int(self.fusion.width)

    @property
    def stream_width(self) -> int:
        return self.stream_of(int(self.model.config.get_text_config().hidden_size))

    def at_work(self) -> None:
        super().at_work()
        trunk: Any = self.trunk
        trunk.seen(self.pictures.blank.to(self.device))

    def picture_row(self, pictures: list[Picture], text: str | None, limit: int | None) -> Features:
        """``input_ids``, cut to ``limit`` where there is one, ``pictures`` and what they ``cost`` beyond these tokens.

        Raises BadPicture, and Refused where the marks in the text are not as many as the pictures.
        """
        parts = (text or "").split(IMAGE_TOKEN)
        if len(parts) > 1 and len(parts) - 1 != len(pictures):
            what = f"the text has {len(parts) - 1} marks {IMAGE_TOKEN}, and the row {len(pictures)} pictures"
            raise Refused(Finding("data.picture-marks", "text", what, "write one mark for each picture, or none"))
        each = self.pictures.tokens if self.in_row else 0
        room = None if limit is None else limit - each * len(pictures)
        if room is not None and room < 2:
            what = f"{len(pictures)} pictures of {each} tokens leave no room for text in {limit}"
            raise Refused(Finding("data.picture-room", "image", what, "raise `max_length`, or give fewer `tokens`"))
        keys = [self.pictures.key(one) for one in pictures]
        ids, full = cut_text(self.tokenizer, "".join(parts), room)
        if each:
            ids = self._with_places(ids, parts, each, len(pictures))
        cost = (self.model.config.picture_tokens - each) * len(pictures)
        return {"input_ids": ids, "pictures": keys, "cost": max(0, cost), "full_length": full + each * len(pictures)}

    @property
    def mark(self) -> str:
        return SOUND_TOKEN if isinstance(self.pictures, Recordings) else IMAGE_TOKEN

    @property
    def mark_id(self) -> int:
        return int(self.model.config.image_token_id)

    def places(self, key: str) -> list[int]:
        return [self.mark_id] * self.fusion.tokens(self.states_of(key)) if self.in_row else []

    def states_of(self, key: str) -> int:
        """How many hidden states a picture or a sound has."""
        return self.pictures.length(key) if isinstance(self.pictures, Recordings) else self.model.config.picture_tokens

    def cost_of(self, keys: list[str], taken: int) -> int:
        return max(0, sum(map(self.states_of, keys)) - taken)

    def _with_places(self, ids: list[int], parts: list[str], each: int, count: int) -> list[int]:
        """Placeholders where the marks stood, or after what opens a text."""
        marker = self.model.config.image_token_id
        opening = next((at for at, token in enumerate(ids) if token not in self.tokenizer.all_special_ids), len(ids))
        if len(parts) == 1:
            return [*ids[:opening], *[marker] * (each * count), *ids[opening:]]
        made = list(ids[:opening])
        for at, part in enumerate(parts):
            made += self.tokenizer(part, add_special_tokens=False)["input_ids"] if part else []
            made += [marker] * each if at < len(parts) - 1 else []
        return made + [token for token in ids[-1:] if token in self.tokenizer.all_special_ids]

    def joining_parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if name in self.fresh and ".fusion." in f".{name}"}

    @contextmanager
    def looking(self) -> Iterator[None]:
        """With what would let no picture through at first let it through."""
        with self.fusion.opened() if isinstance(self.fusion, Gates) else nullcontext():
            yield

    @property
    def action_numbers(self) -> int:
        """How many numbers a chunk of actions has."""
        return int(self.model.config.action_chunk * self.model.config.action_size)

    def action_velocity(self, hidden_TD: Tensor, batch: Batch, actions_KN: Tensor, time_K: Tensor) -> Tensor:
        """(K, N): how noisy actions move, by the model's action expert."""
        expert: Any = self.model
        return expert.velocity(*laid_out_by_row(hidden_TD, batch), actions_KN, time_K)

    def lay_out(self, rows: list[Features]) -> dict[str, Tensor]:
        tensors = super().lay_out(rows)
        if "hidden_LD" not in rows[0] and self.pictures.remembers(texts := [text_key(row) for row in rows]):
            states_KLE = torch.zeros(*tensors["input_ids"].shape, self.model.config.get_text_config().hidden_size)
            states_KLE[tensors["attention_mask"] > 0] = torch.cat([self.pictures.states([key])[0] for key in texts])
            tensors["text_states"] = states_KLE
        return tensors

    def row_media(self, rows: list[Features]) -> dict[str, Tensor]:
        """Pictures that are there ``again`` after the row before are given, and read by the tower, once."""
        keys = [key for row in rows for key in row.get("pictures", ())]
        if not keys:
            return {}
        made = {"picture_rows": torch.tensor([at for at, row in enumerate(rows) for _ in row.get("pictures", ())])}
        if isinstance(self.pictures, Recordings):
            made["picture_lengths"] = torch.tensor([self.states_of(key) for key in keys])
        if self.pictures.remembers(keys):
            return made | {"picture_states": self.pictures.states(keys)}
        once, of = _each_once(rows)
        made |= {"picture_of": torch.tensor(of)} if len(set(of)) < len(of) else {}
        return made | {"pixel_values": self.pictures.pixels(self.pictures.shown(once))}

    def remember(self, rows: list[Features], batch: Batch, frozen: set[str]) -> None:
        """Keep what the towers make of the pictures and texts of a batch: of those, by role, that do not train."""
        trunk: Any = self.trunk
        if self.first_role in frozen and "pixel_values" in batch.tensors:
            keys = [key for row in rows for key in row.get("pictures", ())]
            states_IPD, _ = trunk.seen(batch["pixel_values"])
            own = [self.states_of(key) for key in keys]
            self.pictures.remember(keys, [states[:length] for states, length in zip(states_IPD, own, strict=True)])
        if "text" in frozen:
            mask_KL = batch["attention_mask"]
            states_KLE = trunk.text(input_ids=batch["input_ids"], attention_mask=mask_KL).last_hidden_state
            parts = [part for row in rows for part in sequences(row)]
            for part, states_LE, mask_L in zip(parts, states_KLE, mask_KL > 0, strict=True):
                self.pictures.remember([text_key(part)], states_LE[mask_L][None])

    @property
    def reads_apart(self) -> bool:
        """Whether pictures meet what the text tower has read, and nothing that it reads: padded rows of text alone."""
        apart = not self.in_row and not isinstance(self.fusion, Inside) and self.soft_prompt is None
        return apart and not self.prefix_switch.on and self.layout == "padded"

    def media(self, batch: Batch) -> dict[str, Any]:
        return {name: batch[name] for name in MEDIA if name in batch.tensors}

    def choose_layout(self, packing: str) -> None:
        self.layout, self.unpacked_because = "padded", "pictures stand beside the rows"
        if self.in_row:
            super().choose_layout(packing)

    def save_readers(self, folder: Path) -> None:
        super().save_readers(folder)
        self.pictures.save(folder)


def _each_once(rows: list[Features]) -> tuple[list[Features], list[int]]:
    """The rows whose pictures are not there ``again``; and, of the pictures of all rows, which of those each is."""
    once: list[Features] = []
    of: list[int] = []
    start, total = 0, 0
    for row in rows:
        count = len(row.get("pictures", ()))
        if not row.get("again"):
            once.append(row)
            start, total = total, total + count
        of += range(start, start + count)
    return once, of


def text_key(row: Features) -> str:
    """What names a row's text among what is remembered."""
    return "text:" + ",".join(map(str, row["input_ids"]))
