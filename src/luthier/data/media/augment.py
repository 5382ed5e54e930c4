"""Pictures varied while training, each variation a pure function of (seed, epoch, row).

Neither the process, nor the micro-batch, nor where a run was resumed plays a part: the numbers that a variation is made
of are sha256 of what names it, read as eight fractions.

| option | what is done |
|---|---|
| ``crop`` | a part of at least this share of the area, 3/4 to 4/3 as wide as high, in the size of the whole (Szegedy et al. 2015, arXiv 1409.4842, section 6) |
| ``flip`` | left and right change places, with this probability |
| ``colour`` | brightness, contrast and saturation, each times a factor from 1 - c to 1 + c |

Axes: C channels, H height, W width.
"""  # noqa: E501

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Draw:
    """Which variation: of picture ``number`` of a row, in an epoch counted from 0."""

    epoch: int
    row: int
    number: int

    def fractions(self, seed: int) -> list[float]:
        """Eight numbers in [0, 1)."""
        digest = hashlib.sha256(f"{seed}:{self.epoch}:{self.row}:{self.number}".encode()).digest()
        return [int.from_bytes(digest[at : at + 4], "big") / 2**32 for at in range(0, 32, 4)]


@dataclass(frozen=True)
class Augment:
    """How pictures are varied under ``seed``; 1, 0 and 0 leave them as they are."""

    seed: int
    crop: float = 1.0
    flip: float = 0.0
    colour: float = 0.0

    def __call__(self, pixels_CHW: np.ndarray, draw: Draw) -> np.ndarray:
        """The same shape and type; ``pixels_CHW`` holds numbers from 0 to 255."""
        from PIL import Image, ImageEnhance

        area, wide, left, top, flip, *colours = draw.fractions(self.seed)
        image = Image.fromarray(
            np.ascontiguousarray(pixels_CHW.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
        )
        if self.crop < 1:
            box = part(image.size, self.crop + area * (1 - self.crop), wide, left, top)
            image = image.resize(image.size, Image.Resampling.BILINEAR, box=box)
        if flip < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.colour:
            kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for kind, fraction in zip(kinds, colours, strict=True):
                image = kind(image).enhance(1 + self.colour * (2 * fraction - 1))
        return np.asarray(image).transpose(2, 0, 1).astype(pixels_CHW.dtype)


def part(
    size: tuple[int, int], share: float, wide: float, left: float, top: float
) -> tuple[float, float, float, float]:
    """The box (left, upper, right, lower) of ``share`` of the area; ``wide``, ``left``, ``top`` in [0, 1) choose which.

    Its width over its height is between 3/4 and 4/3, on a logarithmic scale, as far as that fits.
    """
    width, height = size
    ratio = math.exp(math.log(RATIO[0]) + wide * (math.log(RATIO[1]) - math.log(RATIO[0])))
    across, down = min(width, math.sqrt(share * width * height * ratio)), 0.0
    down = min(height, share * width * height / across)
    across = min(width, share * width * height / down)
    x, y = left * (width - across), top * (height - down)
    return x, y, x + across, y + down
