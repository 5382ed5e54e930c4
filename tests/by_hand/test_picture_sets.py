"""Pictures in class folders and tar shards, and their variations: rows and numbers worked out by hand."""

from __future__ import annotations

import base64
import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

import luthier
import tiny
from luthier.data.files.read import read_rows
from luthier.data.formats.choose import read_examples
from luthier.data.media.augment import Augment, Draw, part


def packed(path: Path, parts: list[tuple[str, bytes]], mode: str = "w") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as opened:
        for name, held in parts:
            told = tarfile.TarInfo(name)
            told.size = len(held)
            opened.addfile(told, io.BytesIO(held))
    return str(path)


def picture(colour: str = "red", seed: int = 0, folder: Path | None = None) -> bytes:
    assert folder is not None
    return tiny.save_picture(folder / f"{colour}{seed}.png", colour, seed=seed).read_bytes()


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    """Three pictures of two classes, one of them deeper; what is no picture is counted."""
    for name in ("dress/1.jpg", "dress/old/2.PNG", "shirt/1.png", "shirt/notes.txt", "empty/readme.md"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"-")
    rows, findings = read_rows("photos", base=tmp_path)
    assert [(str(source), row) for source, row in rows] == [
        ("photos/dress/1.jpg:1", {"image": "1.jpg", "label": "dress"}),
        ("photos/dress/old/2.PNG:1", {"image": "2.PNG", "label": "dress"}),
        ("photos/shirt/1.png:1", {"image": "1.png", "label": "shirt"}),
    ]
    assert [(one.code, "shirt/notes.txt" in one.what) for one in findings] == [("data.unknown-file", True)]
    examples = read_examples(["photos"], base=tmp_path).examples
    assert [(one.label, one.images) for one in examples][1] == ("dress", [tmp_path / "photos/dress/old/2.PNG"])


def test_folders_of_splits_are_no_classes(tmp_path: Path) -> None:
    for name in ("train/dress/1.jpg", "test/dress/2.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes(b"-")
    rows, (finding,) = read_rows("photos", base=tmp_path)
    assert (rows, finding.code, finding.severity) == ([], "data.folder-splits", "error")
    assert "photos/test" in finding.mend
    assert [row["label"] for _, row in read_rows("photos/train", base=tmp_path)[0]] == ["dress"]


def test_a_tar_s_rows(tmp_path: Path) -> None:
    """Files called alike up to the first dot are a row; a picture, a class, a text, columns, several pictures."""
    red, green = picture("red", 0, tmp_path), picture("green", 1, tmp_path)
    parts = [
        ("a/1.png", red), ("a/1.cls", b"dress\n"),
        ("b/1.json", json.dumps({"question": "what?", "answer": "red", "image": "gone.png"}).encode()),
        ("b/1.JPG", red),
        ("2.txt", b"a red patch"), ("2.0.png", red), ("2.1.png", green),
        ("3.png", green), ("3.cls", b"\xff"),
    ]  # fmt: skip
    for name, mode in (("shard.tar", "w"), ("shard.tar.gz", "w:gz"), ("shard.tgz", "w:gz")):
        packed(tmp_path / name, parts, mode)
        rows, (finding,) = read_rows(name, base=tmp_path)
        assert [(source.line, row) for source, row in rows] == [
            (1, {"image": red, "label": "dress"}),
            (2, {"question": "what?", "answer": "red", "image": red}),
            (3, {"images": [red, green], "text": "a red patch"}),
        ]
        assert (finding.code, finding.where) == ("data.malformed", f"{name}:4")


def test_a_tar_that_is_cut_off_is_told_and_nothing_leaves_it(tmp_path: Path) -> None:
    path = Path(packed(tmp_path / "s.tar", [("../../1.png", picture("red", 0, tmp_path)), ("../../1.cls", b"x")]))
    rows, findings = read_rows("s.tar", base=tmp_path)
    assert (len(rows), findings) == (1, [])
    assert not (tmp_path.parent.parent / "1.png").exists()
    whole = path.read_bytes()
    path.write_bytes(whole[:700])
    rows, (finding,) = read_rows("s.tar", base=tmp_path)
    assert (rows, finding.code) == ([], "data.malformed")


def test_a_tar_a_folder_and_a_file_of_rows_make_the_same_run(tmp_path: Path) -> None:
    """Same pictures, same labels, in the same order: the same loss at each step."""
    parts, rows = [], []
    for colour in ("green", "red"):
        for i in range(8):
            path = tmp_path / "classes" / colour / f"{i}.png"
            tiny.save_picture(path, colour, seed=i + 50 * (colour == "red"))
            parts += [(f"{colour}{i}.png", path.read_bytes()), (f"{colour}{i}.cls", colour.encode())]
            rows.append({"image": f"classes/{colour}/{i}.png", "label": colour})
    sets = {
        "rows.jsonl": tiny.write_jsonl(tmp_path / "rows.jsonl", rows),
        "shard.tar": packed(tmp_path / "shard.tar", parts), "classes": str(tmp_path / "classes"),
    }  # fmt: skip
    model, losses = tiny.save_image_model("vit", tmp_path / "vit"), []
    for name, path in sets.items():
        run = luthier.tune(
            task="classify", model=model, data={"train": path, "eval": 0.0}, method="full", steps=2, batch_size=8,
            out=str(tmp_path / "runs"), name=name,
        )  # fmt: skip
        records = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
        losses.append([record["loss"] for record in records if record["kind"] == "train"])
    assert losses[0] == losses[1] == losses[2]


# ---- variations


def test_the_part_of_a_picture_by_hand() -> None:
    """A quarter of 40 × 40 pixels, as wide as high at the middle of the range (3/4 · 4/3 = 1): 20 × 20. ``left`` 1/2 of
    the 20 that are left over: 10. At 4/3: 400 = w · w · 3/4, w = 23.09. A whole picture stays whole."""
    assert part((40, 40), 0.25, 0.5, 0.5, 0.0) == pytest.approx((10, 0, 30, 20))
    x, y, right, lower = part((40, 40), 0.25, 1.0, 0.0, 1.0)
    assert (right - x, lower - y, lower) == pytest.approx((math.sqrt(400 * 4 / 3), math.sqrt(300), 40))
    assert part((40, 30), 1.0, 0.9, 0.3, 0.3)[2:] == pytest.approx((40, 30))
    for wide in (0.0, 0.3, 0.99):
        x, y, right, lower = part((64, 16), 0.8, wide, 0.99, 0.99)
        assert 0 <= x < right <= 64 + 1e-9
        assert 0 <= y < lower <= 16 + 1e-9


def test_the_numbers_of_a_variation_are_written_down() -> None:
    """Of sha256("seed:epoch:row:picture"), 32 bits each: another version of Python, numpy or torch can't change what a
    run learns."""
    import hashlib

    digest = hashlib.sha256(b"7:2:5:1").hexdigest()
    found = Draw(2, 5, 1).fractions(7)
    assert [f"{int(fraction * 2**32):08x}" for fraction in found] == [digest[at : at + 8] for at in range(0, 64, 8)]


def test_each_variation_is_pillow_s_own(tmp_path: Path) -> None:
    """Flip and colours against Pillow's operations with the same factors; 1, 0 and 0 change nothing."""
    pixels = np.asarray(Image.open(tiny.save_picture(tmp_path / "a.png", "blue", seed=3))).transpose(2, 0, 1)
    draw, image = Draw(1, 2, 0), Image.fromarray(pixels.transpose(1, 2, 0))
    assert np.array_equal(Augment(0)(pixels, draw), pixels)
    flipped = Augment(0, flip=1.0)(pixels, draw)
    assert np.array_equal(flipped.transpose(1, 2, 0), np.asarray(ImageOps.mirror(image)))
    *_, bright, contrast, colour = draw.fractions(0)
    expected = ImageEnhance.Brightness(image).enhance(0.6 + 0.8 * bright)
    expected = ImageEnhance.Contrast(expected).enhance(0.6 + 0.8 * contrast)
    expected = ImageEnhance.Color(expected).enhance(0.6 + 0.8 * colour)
    assert np.array_equal(Augment(0, colour=0.4)(pixels, draw).transpose(1, 2, 0), np.asarray(expected))


def test_epochs_rows_pictures_and_seeds_differ_and_nothing_else_does(tmp_path: Path) -> None:
    pixels = np.asarray(Image.open(tiny.save_picture(tmp_path / "a.png", "green", seed=3))).transpose(2, 0, 1)
    vary = Augment(0, crop=0.4, flip=0.5, colour=0.3)
    made = {(e, r, n): vary(pixels, Draw(e, r, n)).tobytes() for e in (0, 1) for r in (0, 1) for n in (0, 1)}
    assert len({*made.values()}) == 8
    assert vary(pixels, Draw(1, 0, 1)).tobytes() == made[1, 0, 1]
    assert Augment(1, 0.4, 0.5, 0.3)(pixels, Draw(0, 0, 0)).tobytes() != made[0, 0, 0]


@pytest.fixture
def shown(tmp_path: Path) -> dict[str, Any]:
    rows = []
    for i in range(12):
        tiny.save_picture(tmp_path / f"{i}.png", ("red", "green")[i % 2], seed=i)
        rows.append({"image": f"{i}.png", "label": ("red", "green")[i % 2]})
    return {
        "task": "classify", "model": tiny.save_image_model("vit", tmp_path / "vit"), "out": str(tmp_path / "runs"),
        "data": {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", rows), "eval": 0.25}, "batch_size": 8,
    }  # fmt: skip


def test_what_is_learned_varies_and_what_is_judged_does_not(shown: dict[str, Any]) -> None:
    """Rows of an epoch that trains differ from the pictures themselves; without an epoch they are these."""
    import torch

    _, prepared = luthier.check(**shown, method="full", augment={"crop": 0.5, "flip": 0.5})
    rows, backbone = prepared.train.rows[:4], prepared.backbone
    plain = backbone.lay_out(rows)["pixel_values"]
    first, again, second = (
        backbone.lay_out([row | {"epoch": epoch} for row in rows])["pixel_values"] for epoch in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, plain)
    alone = backbone.lay_out([rows[2] | {"epoch": 1}])["pixel_values"]
    assert torch.equal(alone[0], second[2]), "neighbours in a batch play no part"


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({"method": "features", "augment": {"flip": 0.5}}, "recipe.combination"),
        ({"method": "lora", "augment": {"flipp": 0.5}}, "recipe.unknown-key"),
        ({"method": "lora", "augment": {"crop": 0}}, "recipe.value"),
    ],
)
def test_what_would_vary_nothing_is_refused(keys: dict[str, Any], code: str, shown: dict[str, Any]) -> None:
    findings, _ = luthier.check(**shown, **keys)
    assert code in {finding.code for finding in findings if finding.severity == "error"}


def test_the_report_shows_the_pictures_of_its_rows(shown: dict[str, Any], tmp_path: Path) -> None:
    """Each held-out row with its own picture, small, inside the page: the colour of the patch is that of its label."""
    run = luthier.tune(**shown, method="freeze", steps=2)
    kept = json.loads((run.folder / "thumbnails.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["source"] for row in rows} <= kept.keys()
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for row in rows:
        (url,) = kept[row["source"]]
        picture = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
        red, green, _ = np.asarray(picture).reshape(-1, 3).astype(float).mean(0)
        assert (row["target"] == "red") == (red > green)
        assert max(picture.size) <= 128
        assert f'src="{url}"' in page
