"""Captions as COCO, Flickr30k and Karpathy's splits publish them: read as written here by hand, errors by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import luthier
import tiny
from luthier.data.formats.choose import ReadResult, read_examples

COCO: dict[str, Any] = {
    "info": {"description": "COCO 2017 Dataset"}, "licenses": [{"id": 1, "name": "CC BY 2.0"}],
    "images": [
        {"license": 1, "file_name": "000000000139.jpg", "height": 426, "width": 640, "id": 139},
        {"license": 1, "file_name": "000000000285.jpg", "height": 640, "width": 586, "id": 285},
    ],
    "annotations": [
        {"image_id": 285, "id": 7, "caption": "A big bear. "}, {"image_id": 139, "id": 1, "caption": "A room."},
        {"image_id": 285, "id": 9, "caption": "A bear, near."},
    ],
}  # fmt: skip
KARPATHY: dict[str, Any] = {
    "dataset": "coco",
    "images": [
        {"filepath": "val2014", "filename": "a.jpg", "split": "test", "imgid": 0, "cocoid": 391895, "sentids": [0, 1],
         "sentences": [{"tokens": ["a", "man"], "raw": "A man.", "imgid": 0, "sentid": 0}, {"raw": "He rides."}]},
        {"filename": "b.jpg", "split": "restval", "sentences": [{"raw": "A dog."}]},
        {"filename": "c.jpg", "split": "train", "sentences": [{"raw": "A cat."}]},
    ],
}  # fmt: skip
FLICKR = """\
image_name| comment_number| comment
1.jpg| 0| Two men, one "old", sit .
1.jpg| 1| Men on a bench .
2.jpg| 0| A dog | runs .
2.jpg| 4   A dog runs across the grass .
3.jpg| 0| A child .
"""


def read(folder: Path, name: str, text: Any, path: str = "", **more: Any) -> ReadResult:
    (folder / name).write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return read_examples(path or name, base=folder, prefer=("image-caption", "image-label"), **more)


def shown(result: ReadResult) -> list[tuple[str, list[str] | None, int]]:
    """(name of the picture, captions, line) of each."""
    return [(one.images[0].name, one.targets, one.source.line) for one in result.examples if one.images]  # type: ignore[union-attr]


def test_coco(tmp_path: Path) -> None:
    """A row for each picture, in their order, with its captions in theirs; the line is the picture's number."""
    found = read(tmp_path, "captions_val2017.json", COCO)
    assert (found.findings, found.format, found.rows_read) == ([], "image-caption", 2)
    assert shown(found) == [
        ("000000000139.jpg", ["A room."], 1), ("000000000285.jpg", ["A big bear.", "A bear, near."], 2)
    ]  # fmt: skip
    assert found.examples[0].images == [tmp_path / "000000000139.jpg"]


def test_what_is_wrong_in_coco_is_told_by_its_place(tmp_path: Path) -> None:
    images = [*COCO["images"], {"id": 139, "file_name": "again.jpg"}, {"file_name": "no-id.jpg"}, {"id": 5}, {"id": 6}]
    images[-1]["file_name"] = "nothing-said.jpg"
    told = [{"image_id": 77, "caption": "Of none."}, {"image_id": 139, "caption": " "}, {"image_id": 139}]
    told.append({"image_id": 5, "caption": "A picture without a name."})
    value = {"images": images, "annotations": [*COCO["annotations"], *told]}
    found = read(tmp_path, "c.json", value)
    assert [(one.code, one.where) for one in found.findings] == [
        ("data.malformed", "c.json:images[2].id"), ("data.malformed", "c.json:images[3].id"),
        ("data.malformed", "c.json:annotations[3].image_id"), ("data.malformed", "c.json:annotations[4].caption"),
        ("data.malformed", "c.json:annotations[5].caption"), ("data.missing-field", "c.json:5:image"),
        ("data.empty-target", "c.json:6:captions"),
    ]  # fmt: skip
    assert [name for name, _, _ in shown(found)] == ["000000000139.jpg", "000000000285.jpg"]
    assert found.rows_read == 2 + 5 + 2, "what is used, what can't be read, and rows that lack something"


def test_boxes_are_no_captions(tmp_path: Path) -> None:
    boxes = {"images": COCO["images"], "annotations": [{"image_id": 139, "bbox": [1, 2, 3, 4], "category_id": 1}]}
    (finding,) = read(tmp_path, "instances.json", boxes).findings
    assert "several lists of rows" in finding.what


def test_karpathy_splits(tmp_path: Path) -> None:
    name = "dataset_coco.json"
    every = read(tmp_path, name, KARPATHY)
    assert shown(every) == [("a.jpg", ["A man.", "He rides."], 1), ("b.jpg", ["A dog."], 2), ("c.jpg", ["A cat."], 3)]
    assert every.examples[0].images == [tmp_path / "val2014" / "a.jpg"]
    (warning,) = every.findings
    assert (warning.code, warning.severity) == ("data.folder-splits", "warning")
    both = read(tmp_path, name, KARPATHY, f"{name}:train+restval")
    assert (both.findings, [line for _, _, line in shown(both)]) == ([], [2, 3])
    (missing,) = read(tmp_path, name, KARPATHY, f"{name}:tests").findings
    assert (missing.code, missing.mend) == ("data.missing", "the splits of its rows are restval, test, train")
    broken = {"images": [*KARPATHY["images"], {"filename": "d.jpg", "split": "test", "sentences": [{"tokens": ["a"]}]}]}
    (bad,) = read(tmp_path, name, broken, f"{name}:test").findings
    assert (bad.code, bad.where) == ("data.type", f"{name}:4:captions")


def test_flickr30k(tmp_path: Path) -> None:
    """Bars part the columns; the published file lacks one in a row, and a further one makes a row one too long."""
    found = read(tmp_path, "results.csv", FLICKR)
    assert found.format == "image-caption"
    assert shown(found) == [
        ("1.jpg", ['Two men, one "old", sit .'], 2), ("1.jpg", ["Men on a bench ."], 3), ("3.jpg", ["A child ."], 6)
    ]  # fmt: skip
    assert [(one.code, one.where) for one in found.findings] == [
        ("data.malformed", "results.csv:4"), ("data.malformed", "results.csv:5")
    ]  # fmt: skip
    commas = read(tmp_path, "captions.csv", 'image,caption\n1.jpg,"A dog, wet."\n1.jpg,A dog.\n')
    assert (commas.findings, shown(commas)) == ([], [("1.jpg", ["A dog, wet."], 2), ("1.jpg", ["A dog."], 3)])


def test_pictures_in_another_folder(tmp_path: Path) -> None:
    """Beside the file where there is such a picture, else in `data.images`."""
    (tmp_path / "annotations").mkdir()
    tiny.save_picture(tmp_path / "annotations" / "000000000139.jpg", "red")
    path = "annotations/captions.json"
    found = read(tmp_path, path, COCO, images=[tmp_path / "val2017"])
    assert [one.images for one in found.examples] == [
        [tmp_path / "annotations" / "000000000139.jpg"], [tmp_path / "val2017" / "000000000285.jpg"]
    ]  # fmt: skip


def test_captions_of_a_picture_stay_together(tmp_path: Path) -> None:
    """A table with a caption a row: no picture stands on both sides of a split, nor is its own the key of another."""
    lines = ["image,caption"]
    for i in range(24):
        tiny.save_picture(tmp_path / "pictures" / f"{i}.png", ("red", "green", "blue")[i % 3], seed=i)
        lines += [f"{i}.png,the {tiny.WORDS[3 + i % 8]} {i}", f'{i}.png,"a house, and {i}"']
    (tmp_path / "captions.csv").write_text("\n".join(lines), encoding="utf-8")
    model = tiny.save_dual_model("clip", tmp_path / "clip")
    data = {"train": str(tmp_path / "captions.csv"), "eval": 0.25, "images": str(tmp_path / "pictures")}
    findings, prepared = luthier.check(task="match", model=model, data=data, method="full")
    assert [one for one in findings if one.severity == "error"] == []
    sides = [[one.images[0].name for one in side.examples] for side in (prepared.train, prepared.evaluation)]
    assert not set(sides[0]) & set(sides[1])
    assert all(side.count(name) == 2 for side in sides for name in side)
    first, second, third = prepared.train.rows[:3]
    assert first["keys"][0] == second["keys"][0] != third["keys"][0]
