"""A model that reads text and pictures together: rows of text in which, or beside which, pictures are.

Where pictures stand in the row, each is as many tokens as the model makes of it, at the mark ``<image>`` in the text,
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

from luthier.fusion.cross_attention import Gates
from luthier.models.composed import IMAGE_TOKEN
from luthier.models.illustrated import Illustrated
from luthier.types import Batch, Features, Finding, Picture, Refused

MEDIA = ("pixel_values", "picture_rows")


@dataclass(kw_only=True)
class MultimodalBackbone(Illustrated):
    def __post_init__(self) -> None:
        if self.needs == "token_logits" and not self.fusion.writes:
            what = "`fuse: " + self.model.config.fusion + "` joins pictures to what the text model has read: "
            what += "it can't be written from"
            mend = "use `projection`, `{concatenation: {when: early}}`, or `cross_attention` with a decoder"
            raise Refused(Finding("recipe.combination", "model.fuse", what, mend))
        self.pictures.tokens = self.fusion.tokens if self.in_row else self.model.config.picture_tokens

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
        return int(self.model.config.get_text_config().hidden_size)

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
        ids, full = self._ids("".join(parts), room)
        if each:
            ids = self._with_places(ids, parts, each, len(pictures))
        cost = (self.model.config.picture_tokens - each) * len(pictures)
        return {"input_ids": ids, "pictures": keys, "cost": max(0, cost), "full_length": full + each * len(pictures)}

    @property
    def mark(self) -> str:
        return IMAGE_TOKEN

    @property
    def mark_id(self) -> int:
        return int(self.model.config.image_token_id)

    def places(self, key: str) -> list[int]:
        return [self.mark_id] * self.pictures.tokens if self.in_row else []

    def cost_of(self, keys: list[str], taken: int) -> int:
        return max(0, self.model.config.picture_tokens * len(keys) - taken)

    def _ids(self, text: str, room: int | None) -> tuple[list[int], int]:
        ids = self.tokenizer(text)["input_ids"]
        if room is None or len(ids) <= room:
            return ids, len(ids)
        return self.tokenizer(text, truncation=True, max_length=room)["input_ids"], len(ids)

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
        return {name: p for name, p in self.model.named_parameters() if name in self.fresh and ".fusion." in f".{name}"}

    @contextmanager
    def looking(self) -> Iterator[None]:
        """With what would let no picture through at first let it through."""
        with self.fusion.opened() if isinstance(self.fusion, Gates) else nullcontext():
            yield

    def lay_out(self, rows: list[Features]) -> dict[str, Tensor]:
        return super().lay_out(rows) | ({} if "hidden_LD" in rows[0] else self.row_media(rows))

    def row_media(self, rows: list[Features]) -> dict[str, Tensor]:
        keys = [(at, key) for at, row in enumerate(rows) for key in row.get("pictures", ())]
        if not keys:
            return {}
        pixels, of_rows = self.pictures.pixels([key for _, key in keys]), torch.tensor([at for at, _ in keys])
        return {"pixel_values": pixels, "picture_rows": of_rows}

    def media(self, batch: Batch) -> dict[str, Any]:
        return {name: batch[name] for name in MEDIA if name in batch.tensors}

    def choose_layout(self, packing: str) -> None:
        self.layout, self.unpacked_because = "padded", "pictures stand beside the rows"
        if self.in_row:
            super().choose_layout(packing)

    def save_readers(self, folder: Path) -> None:
        super().save_readers(folder)
        self.pictures.save(folder)
