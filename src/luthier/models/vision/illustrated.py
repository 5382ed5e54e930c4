"""A model that reads rows of tokens in which pictures have their places: a mark in the text becomes the tokens that a
picture is, wherever the row comes from, and none of them is cut or learned. With a model that hears, the same of
sounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from luthier.models.audio.recordings import Recordings
from luthier.models.backbone import Backbone
from luthier.models.vision.pictures import Pictures
from luthier.types import Batch, Features, Finding, Picture, Refused


@dataclass(kw_only=True)
class Illustrated(Backbone):
    pictures: Pictures | Recordings  # type: ignore[misc,assignment]

    @property
    def shows(self) -> str:
        """What stands in its rows: pictures or sounds."""
        return "pictures" if self.sounds is None else "sounds"

    @property
    def mark(self) -> str:
        """What says in a text where a picture stands: a token of its own."""
        raise NotImplementedError

    @property
    def mark_id(self) -> int:
        raise NotImplementedError

    @property
    def image_id(self) -> int:
        """The token in whose place a hidden state of a picture stands."""
        return self.mark_id

    @property
    def begins_unasked(self) -> bool:
        """Whether it writes of a picture without any prompt, unless a row or the recipe asks something."""
        return False

    @property
    def lays_out_rows(self) -> bool:
        """Whether its processor lays out a whole row, with what is written of pictures and prompt (``row_of``)."""
        return False

    def row_of(
        self, source: str, separator: str, target: str | None, pictures: list[Picture], limit: int
    ) -> Features:  # fmt: skip
        """Such a row, of at most ``limit`` tokens. Raises BadPicture and Refused."""
        raise NotImplementedError

    def check_conversations(self) -> None:
        """Raises Refused where a row can't be a conversation."""

    def picture_places(self, batch: Batch) -> Tensor | None:
        found_T = batch["input_ids"].flatten() == self.image_id
        return found_T if bool(found_T.any()) else None

    def lay_out(self, rows: list[Features]) -> dict[str, Tensor]:
        tensors = super().lay_out(rows)
        return tensors if "hidden_LD" in rows[0] else tensors | self.row_media(rows)

    def places(self, key: str) -> list[int]:
        """The tokens that a picture is in the row."""
        raise NotImplementedError

    def cost_of(self, keys: list[str], taken: int) -> int:
        """What pictures cost to compute beyond the tokens that they are."""
        return 0

    def room_taken(self, pictures: list[Picture]) -> int:
        """How many tokens more than their marks these pictures are. Raises BadPicture."""
        return sum(len(self.places(self.pictures.key(one))) - 1 for one in pictures)

    def illustrated(self, row: Features, pictures: list[Picture]) -> Features:
        """A row whose ``input_ids`` hold one mark for each picture, with the tokens that each is in its place, none of
        them supervised. Raises BadPicture, and Refused where marks and pictures are not as many."""
        at = [place for place, token in enumerate(row["input_ids"]) if token == self.mark_id]
        supervised = row.get("supervised", [False] * len(row["input_ids"]))
        if len(at) != len(pictures) or any(supervised[place] for place in at):
            what = f"the text has {len(at)} marks {self.mark}, and the row {len(pictures)} {self.shows}"
            if len(at) == len(pictures):
                what = f"an answer spells {self.mark}, which stands for what it is shown: none can be written"
            raise Refused(Finding("data.picture-marks", "text", what, "write one mark for each, or none"))
        keys = [self.pictures.key(one) for one in pictures]
        return self._grown(row, {place: (1, self.places(key)) for place, key in zip(at, keys, strict=True)}, keys)

    def with_others(self, row: Features, keys: list[str]) -> Features:
        """A row that has its pictures, with as many others in the places of these."""
        spans: dict[int, tuple[int, list[int]]] = {}
        place = 0
        for old, new in zip(row["pictures"], keys, strict=True):
            if taken := len(self.places(old)):
                place = row["input_ids"].index(self.image_id, place)
                spans[place] = (taken, self.places(new))
                place += taken
        return self._grown(row, spans, keys)

    def _grown(self, row: Features, spans: dict[int, tuple[int, list[int]]], keys: list[str]) -> Features:
        """The row with the tokens of pictures, none of them supervised, instead of so many of its own at a place."""
        ids = row["input_ids"]
        supervised = row.get("supervised", [False] * len(ids))
        grown: list[tuple[int, bool]] = []
        moved: list[int] = []
        while len(moved) < len(ids):
            place = len(moved)
            taken, tokens = spans.get(place, (1, None))
            moved += [len(grown)] * taken
            grown += [(ids[place], supervised[place])] if tokens is None else [(one, False) for one in tokens]
        made: dict[str, Any] = row | {"input_ids": [token for token, _ in grown], "pictures": keys}
        if "supervised" in row:
            ends = [moved[end] if 0 <= end < len(moved) else -1 for end in row["turn_ends"]]
            made |= {"supervised": [said for _, said in grown], "turn_ends": ends}
        if "full_length" in row:
            made["full_length"] = row["full_length"] + len(grown) - len(ids)
        return made | {"cost": self.cost_of(keys, sum(len(tokens) for _, tokens in spans.values()))}
