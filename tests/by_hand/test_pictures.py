"""Pictures: what decoding makes of each kind, what is refused, rows of them, and how they are joined with text."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from luthier.data.formats.choose import recognise, to_example
from luthier.data.media.pictures import BadPicture, decode
from luthier.data.split import content_key
from luthier.fusion.common import by_row, mean_by_row
from luthier.models.vision.pictures import Pictures
from luthier.types import Example, Source

SOURCE = Source("rows.jsonl", 1)


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def upper_left(picture: bytes) -> tuple[int, ...]:
    return decode(picture)[0].getpixel((0, 0))


def test_a_picture_in_rgb_stays_as_it_is() -> None:
    image, notes = decode(stored(Image.new("RGB", (3, 2), (1, 2, 3))))
    assert (image.mode, image.size, image.getpixel((2, 1)), notes) == ("RGB", (3, 2), (1, 2, 3), [])


def test_grey_and_palette_become_rgb() -> None:
    assert upper_left(stored(Image.new("L", (2, 2), 7))) == (7, 7, 7)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([9, 8, 7])
    assert upper_left(stored(palette)) == (9, 8, 7)


def test_cmyk_becomes_rgb() -> None:
    """C = 0, M = 255, Y = 255, K = 0 is full red, but for what JPEG loses."""
    image, notes = decode(stored(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    red, green, blue = image.getpixel((4, 4))
    assert red > 250
    assert green < 6
    assert blue < 6
    assert notes == ["CMYK: to RGB"]


def test_what_is_transparent_lies_on_white() -> None:
    """51 of 255 black over white: 255 · (1 - 1/5) = 204."""
    image, notes = decode(stored(Image.new("RGBA", (2, 2), (0, 0, 0, 51))))
    assert image.getpixel((0, 0)) == (204, 204, 204)
    assert notes == ["transparent: on white"]


def test_of_sixteen_bits_the_highest_eight_are_kept() -> None:
    """40000 = 156 · 256 + 64."""
    image, (note,) = decode(stored(Image.new("I;16", (2, 2), 40000)))
    assert image.getpixel((0, 0)) == (156, 156, 156)
    assert note.endswith("highest 8 bits")
    assert upper_left(stored(Image.new("I;16", (2, 2), 65535))) == (255, 255, 255)


@pytest.mark.parametrize(
    ("value", "mode", "kept"),
    [(0.5, "F", 127), (1.0, "F", 255), (100.0, "F", 100), (255.0, "F", 255), (65535.0, "F", 255), (131070.0, "F", 255),
     (100, "I", 100), (40000, "I", 156)],
)  # fmt: skip
def test_of_thirty_two_bits_the_range_is_told_by_the_values(value: float, mode: str, kept: int) -> None:
    """0.5 · 255.996 = 127.998; 40000 / 65535 · 255.996 = 156.25."""
    held = Image.new(mode, (2, 2), int(value) if mode == "I" else value)
    image, (note,) = decode(stored(held, "TIFF"))
    assert image.getpixel((0, 0)) == (kept, kept, kept)
    assert note == f"{mode}: highest 8 bits"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_of_no_numbers_is_refused(value: float) -> None:
    with pytest.raises(BadPicture, match="not finite"):
        decode(stored(Image.new("F", (2, 2), value), "TIFF"))


def test_a_turned_picture_is_turned_upright() -> None:
    """EXIF 6: the camera was turned clockwise; what is stored as 3 × 2 is 2 × 3, its left edge on top."""
    image = Image.new("RGB", (3, 2), "black")
    image.putpixel((0, 1), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright, notes = decode(stored(image, exif=exif))
    assert upright.size == (2, 3)
    assert upright.getpixel((0, 0)) == (255, 255, 255)
    assert notes == ["turned upright"]


def test_of_an_animation_the_first_frame_is_kept() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    image, notes = decode(stored(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert "animated: first frame" in notes


def test_what_is_no_usable_picture_says_why(tmp_path: Path) -> None:
    whole = stored(Image.effect_noise((64, 64), 50).convert("RGB"))
    (tmp_path / "text.jpg").write_text("hello, this is text")
    (tmp_path / "empty.jpg").write_bytes(b"")
    cases: list[tuple[Path | bytes, str]] = [
        (tmp_path / "gone.png", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "text.jpg", "is no picture: it begins with 'hello, this is text'"),
        (tmp_path / "empty.jpg", "is no picture"),
        (whole[: len(whole) // 2], "is damaged"),
        (stored(Image.new("RGB", (1, 1))), "1 × 1 pixels"),
        (stored(Image.new("1", (20_000, 20_000))), "over 100,000,000"),
        (stored(Image.new("1", (12_000, 9_000))), "12,000 × 9,000 pixels, over 100,000,000"),
    ]
    for picture, why in cases:
        with pytest.raises(BadPicture) as bad:
            decode(picture)
        assert why in bad.value.what
        assert bad.value.mend


def test_rows_with_pictures() -> None:
    row = {"image": "a.jpg", "label": "dress"}
    assert recognise([(SOURCE, row)], prefer=("image-text-label", "text-label", "image-label")) == "image-label"
    assert to_example(SOURCE, row, "image-label") == Example(SOURCE, images=[Path("a.jpg")], label="dress")
    asked = {"image": ["a.jpg", "b.jpg"], "question": "how many?", "answer": "two"}
    assert recognise([(SOURCE, asked)], prefer=("image-text-label", "text-label")) == "image-text-label"
    both = Example(SOURCE, images=[Path("a.jpg"), Path("b.jpg")], text="how many?", label="two")
    assert to_example(SOURCE, asked, "image-text-label") == both
    held = to_example(SOURCE, {"image": {"bytes": b"xyz", "path": None}, "label": "x"}, "image-label")
    assert held == Example(SOURCE, images=[b"xyz"], label="x")


@pytest.mark.parametrize("wrong", [None, 3, "", [], ["a.jpg", None]])
def test_a_row_whose_picture_is_none_is_told(wrong: Any) -> None:
    (finding,) = to_example(SOURCE, {"image": wrong, "label": "x"}, "image-label")  # type: ignore[misc]
    assert (finding.code, finding.where) == ("data.type", "rows.jsonl:1:image")


def test_the_content_of_a_row_is_its_pictures_bytes(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    one.write_bytes(b"1")
    same.write_bytes(b"1")
    other.write_bytes(b"2")
    keys = [content_key(Example(SOURCE, images=[path])) for path in (one, same, other)]
    assert keys[0] == keys[1] != keys[2]


def test_pictures_by_row() -> None:
    """Rows 0 and 2 have two and one pictures, row 1 none; each picture two states of width 1."""
    states_IPD = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]], [[5.0], [6.0]]])
    rows_I = torch.tensor([0, 0, 2])
    laid, mask = by_row(states_IPD, rows_I, 3)
    assert laid[..., 0].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0], [5, 6, 0, 0]]
    assert mask.int().tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert mean_by_row(states_IPD.mean(1), rows_I, 3).tolist() == [[2.5], [0.0], [5.5]]


class Halving:
    """A processor that halves values, or (``spread``) divides them by the greatest of their picture."""

    def __init__(self, *, spread: bool):
        self.spread, self.asked = spread, 0

    def __call__(self, pictures: Any, **options: Any) -> dict[str, Any]:
        self.asked += 1
        several = [
            np.asarray(one, dtype=np.float32) for one in (pictures if isinstance(pictures, list) else [pictures])
        ]
        several = [one.transpose(2, 0, 1) if one.shape[-1] == 3 else one for one in several]
        if options.get("do_rescale") is not False:
            several = [one / (one.max() if self.spread else np.float32(2)) for one in several]
        return {"pixel_values": several}


@pytest.mark.parametrize("spread", [False, True])
def test_values_are_looked_up_where_the_processor_does_no_more(spread: bool) -> None:
    """5 × 5 pixels of values up to 250: 250 becomes 125 when halved, 1 when divided by the greatest."""
    processor = Halving(spread=spread)
    pictures = Pictures(processor)
    values = np.arange(75, dtype=np.uint8).reshape(5, 5, 3) * 2
    several = [values, values + 100]
    keys = [pictures.key(stored(Image.fromarray(one))) for one in several]
    expected = np.stack([processor([one.transpose(2, 0, 1)])["pixel_values"][0] for one in several])
    for _ in range(2):
        before = processor.asked
        assert torch.equal(pictures.pixels([(key, None) for key in keys]), torch.as_tensor(expected))
    assert (processor.asked == before) is not spread
