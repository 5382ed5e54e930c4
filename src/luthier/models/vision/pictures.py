"""The pictures of a run's rows, as the model's own processor makes them: each different one decoded once.

Resized and cropped pixels are kept as bytes in a file that has no name and goes with the process; what a batch reads is
scaled and normalised from there. The result is bit-equal to the processor's on the picture itself.

Axes: I pictures, C channels, H height, W width.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.data.media.augment import Augment, Draw
from luthier.data.media.pictures import BadPicture, decode
from luthier.models.joined.kept import Kept
from luthier.models.joined.scratch import Place, key_of
from luthier.models.vision.pixels import made_by
from luthier.types import Features, Picture

RAW = {"do_rescale": False, "do_normalize": False}
MADE = {"do_resize": False, "do_center_crop": False}

Shown = tuple[str, Draw | None]
"""A picture's key, and which variation of it is shown."""


@dataclass
class Pictures(Kept):
    """``tokens`` is how many hidden states the model gives for one; ``converted`` counts what decoding changed."""

    processor: Any
    tokens: int = 1
    augment: Augment | None = None
    converted: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._places: dict[str, Place] = {}
        self._known: dict[Picture, str | BadPicture] = {}
        self._table_C256: np.ndarray | None = None

    @property
    def backend(self) -> str:
        """What makes its pixels: torchvision or pil."""
        return made_by(self.processor)

    def prepare(self, pictures: Iterable[Picture]) -> None:
        """Decode those that are new, in threads: Pillow works outside the interpreter's lock."""
        new = [one for one in dict.fromkeys(pictures) if one not in self._known]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for one, made in zip(new, pool.map(self._made, new), strict=True):
                self._keep(one, made)

    def key(self, picture: Picture) -> str:
        """What names its pixels in a row's features. Raises BadPicture."""
        if picture not in self._known:
            self._take(picture)
        known = self._known[picture]
        if isinstance(known, BadPicture):
            raise known
        return known

    def _take(self, picture: Picture) -> None:
        self._keep(picture, self._made(picture))

    def _made(self, picture: Picture) -> tuple[np.ndarray, list[str]] | BadPicture:
        try:
            image, notes = decode(picture)
        except BadPicture as bad:
            return bad
        pixels_CHW = np.asarray(self.processor(image, return_tensors="np", **RAW)["pixel_values"][0])
        return pixels_CHW, notes

    def _keep(self, picture: Picture, made: tuple[np.ndarray, list[str]] | BadPicture) -> None:
        if isinstance(made, BadPicture):
            self._known[picture] = made
            return
        pixels_CHW, notes = made
        self.converted.update(notes)
        small = pixels_CHW.astype(np.uint8)
        pixels_CHW = small if np.array_equal(small, pixels_CHW) else pixels_CHW.astype(np.float32)
        key = key_of(pixels_CHW)
        if key not in self._places:
            self._places[key] = self._scratch.write(pixels_CHW)
        self._known[picture] = key

    def shown(self, rows: Sequence[Features]) -> list[Shown]:
        """The pictures of rows, in their order: keys, and how each is varied, which depends on row and epoch."""
        return [
            (key, Draw(row["epoch"], row["row"], at) if self.augment is not None and "epoch" in row else None)
            for row in rows
            for at, key in enumerate(row.get("pictures", ()))
        ]

    def pixels(self, shown: Sequence[Shown]) -> Tensor:
        """(I, C, H, W), as the model takes them."""
        raw = [self._varied(self._scratch.read(self._places[key]), draw) for key, draw in shown]
        if {(one.shape, one.dtype) for one in raw} != {(raw[0].shape, np.dtype(np.uint8))}:
            return torch.as_tensor(np.asarray(self._normalised(raw)))
        if self._table_C256 is None:
            self._table_C256 = self._asked(raw[0])
        known = len(self._table_C256) > 0
        return torch.as_tensor(_looked_up(self._table_C256, raw) if known else np.asarray(self._normalised(raw)))

    def _normalised(self, raw: list[np.ndarray]) -> Any:
        """By the processor itself, one picture after the other."""
        own = [np.array(one) for one in raw]  # torch asks for arrays that may be written to
        return self.processor(own, return_tensors="np", input_data_format="channels_first", **MADE)["pixel_values"]

    def _asked(self, pixels_CHW: np.ndarray) -> np.ndarray:
        """(C, 256): what the processor makes of each 8-bit value of a channel; none, (0, 256), where a picture shows
        that it does more than that."""
        channels, none = len(pixels_CHW), np.empty((0, 256), np.float32)
        values_CHW = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), (channels, 1, 1))
        made = np.asarray(self._normalised([values_CHW])[0])
        if made.shape != values_CHW.shape or made.dtype != np.float32:
            return none
        table_C256, (whole,) = made.reshape(channels, 256), self._normalised([pixels_CHW])
        return table_C256 if np.array_equal(_looked_up(table_C256, [pixels_CHW])[0], whole) else none

    def _varied(self, pixels_CHW: np.ndarray, draw: Draw | None) -> np.ndarray:
        return pixels_CHW if draw is None or self.augment is None else self.augment(pixels_CHW, draw)

    @property
    def blank(self) -> Tensor:
        """(1, C, H, W): a grey picture, to ask the model what it makes of one."""
        from PIL import Image

        return torch.as_tensor(self.processor(Image.new("RGB", (64, 64), "grey"), return_tensors="pt")["pixel_values"])

    def save(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)


def backend_of(pictures: object) -> str:
    """What makes the pixels of a model's pictures; "" of one that reads none."""
    return pictures.backend if isinstance(pictures, Pictures) else ""


def _looked_up(table_C256: np.ndarray, raw: list[np.ndarray]) -> np.ndarray:
    """(I, C, H, W), fp32."""
    made_ICHW = np.empty((len(raw), *raw[0].shape), np.float32)
    for made_CHW, pixels_CHW in zip(made_ICHW, raw, strict=True):
        for values_256, pixels_HW, made_HW in zip(table_C256, pixels_CHW, made_CHW, strict=True):
            np.take(values_256, pixels_HW, out=made_HW, mode="clip")
    return made_ICHW
