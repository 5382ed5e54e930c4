"""A picture as it is stored to 8-bit RGB pixels, by one rule for each peculiarity, each counted.

| it is | rule |
|---|---|
| turned (EXIF) | turned upright |
| CMYK, greyscale, a palette, another colour space | converted to RGB |
| partly transparent | laid on white |
| 16 bits a channel | the highest 8 bits |
| 32 bits a channel | the highest 8 bits of the smallest range that holds it: 1 (fractions), 255, 65,535, its own |
| animated, or of several pages | the first one |
"""

from __future__ import annotations

import difflib
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.types import Finding, Picture

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Of files that hold pictures."""
MOST_PIXELS = 100_000_000
LEAST_SIDE = 2
ADDRESS = re.compile(r"\b(https?|ftp|s3|gs|file|data):")
ORIENTATION = 0x0112  # of EXIF; 1: upright


def missing(given: str, endings: Sequence[str] = ENDINGS) -> Finding | None:
    """What is wrong with a text that is meant as the path of a picture (or of a sound, by its ending), and is none."""
    path = Path(given)
    if path.suffix.lower() not in endings or len(given) > 4096 or path.is_file():
        return None
    near = difflib.get_close_matches(
        path.name, [one.name for one in path.parent.glob("*")] if path.parent.is_dir() else []
    )
    mend = f"did you mean {path.parent / near[0]}?" if near else "paths are relative to the folder you are in"
    return Finding("data.picture" if endings is ENDINGS else "data.sound", given, "there is no such file", mend)


class BadPicture(Exception):
    """Why a picture can't be used: ``what`` and how to ``mend`` it."""

    def __init__(self, what: str, mend: str = ""):
        super().__init__(what)
        self.what, self.mend = what, mend


def decode(picture: Picture) -> tuple[Any, list[str]]:
    """A ``PIL.Image`` in mode RGB, and what was done to it (``upright``, ``CMYK``, ...).

    Raises BadPicture for what is missing, no picture, damaged, of one pixel or too large to decode safely.
    """
    from PIL import Image, ImageOps

    opened = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
        width, height = opened.size
        if width * height > MOST_PIXELS:
            raise BadPicture(f"has {width:,} × {height:,} pixels, over {MOST_PIXELS:,}", "make it smaller")
        if min(width, height) < LEAST_SIDE:
            raise BadPicture(f"has {width} × {height} pixels: there is nothing to see", "leave the row out")
        notes = ["animated: first frame"] if _has_another(opened) else []
        opened.load()
        if opened.getexif().get(ORIENTATION, 1) != 1:
            notes.append("turned upright")
        return _to_rgb(ImageOps.exif_transpose(opened), notes), notes
    except FileNotFoundError:
        if ADDRESS.search(str(picture)):
            raise BadPicture("is an address, and pictures are read from files", "fetch it, and give its path") from None
        raise BadPicture("there is no such file", "paths are relative to the file that names them") from None
    except IsADirectoryError:
        raise BadPicture("is a folder", "name a picture in it") from None
    except Image.DecompressionBombError:
        raise BadPicture(f"has over {MOST_PIXELS:,} pixels", "make it smaller") from None
    except Image.UnidentifiedImageError:
        raise BadPicture(f"is no picture: it begins with {_start(picture)!r}", "get the file again") from None
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise for damaged files
        raise BadPicture(f"is damaged ({str(error) or type(error).__name__})", "get the file again") from None
    finally:
        if opened is not None and not isinstance(picture, bytes):
            opened.close()


def _has_another(opened: Any) -> bool:
    """Whether a second frame or page follows; the first one is at hand afterwards."""
    try:
        opened.seek(1)
    except EOFError:
        return False
    opened.seek(0)
    return True


def _to_rgb(image: Any, notes: list[str]) -> Any:
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        notes.append(f"{image.mode}: highest 8 bits")
        return _eight_bits(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        notes.append("transparent: on white")
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    notes.append(f"{image.mode}: to RGB")
    return image.convert("RGB")


def _eight_bits(image: Any) -> Any:
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise BadPicture("holds numbers that are not finite", "get the file again, or leave the row out")
    values = values.clip(min=0)
    most = float(values.max())
    ranges = (65535.0,) if image.mode.startswith("I;16") else (*((1.0,) if image.mode == "F" else ()), 255.0, 65535.0)
    scale = next((one for one in ranges if most <= one), most)
    return Image.fromarray((values / scale * 255.996).astype(np.uint8))


def _start(picture: Picture) -> str:
    if isinstance(picture, Path):
        with picture.open("rb") as file:
            return file.read(24).decode("latin-1")
    return picture[:24].decode("latin-1")
