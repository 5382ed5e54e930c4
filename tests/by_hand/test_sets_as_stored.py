"""Sets of pictures as they are stored and published: several tars by one name, a data set that was saved to disk, a
folder with its metadata, Flickr's token files. Rows are worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.data.files.read import read_rows
from luthier.data.files.shard_names import shard_names
from luthier.recipe import read_recipe


def test_a_name_stands_for_several_files(tmp_path: Path) -> None:
    for name in ("a/s-08.jsonl", "a/s-09.jsonl", "a/s-10.jsonl", "b/s-08.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'{{"text": "{name}"}}\n', encoding="utf-8")
    assert shard_names("a/s-{08..11}.jsonl", tmp_path) == [f"a/s-{n}.jsonl" for n in ("08", "09", "10", "11")]
    assert shard_names("*/s-08.jsonl", tmp_path) == ["a/s-08.jsonl", "b/s-08.jsonl"]
    assert shard_names(f"{tmp_path}/a/*.jsonl", Path("/nowhere"))[0] == f"{tmp_path}/a/s-08.jsonl"
    assert shard_names("a/s-08.jsonl", tmp_path) == []
    rows, findings = read_rows("a/s-*.jsonl", base=tmp_path)
    assert [str(source) for source, _ in rows] == [f"a/s-{n}.jsonl:1" for n in ("08", "09", "10")]
    assert findings == []
    _, (missing,) = read_rows("a/s-{10..11}.jsonl", base=tmp_path)
    assert (missing.code, missing.where) == ("data.missing", "a/s-11.jsonl")
    _, (nothing,) = read_rows("a/*.tar", base=tmp_path)
    assert nothing.code == "data.missing"
    (tmp_path / "r.yaml").write_text("task: complete\nmodel: m\ndata: a/s-{08..09}.jsonl\n", encoding="utf-8")
    resolved, _ = read_recipe(tmp_path / "r.yaml")
    assert resolved is not None
    resolved.objective_options = resolved.task_options
    assert f"{tmp_path}/a/s-{{08..09}}.jsonl" in resolved.to_yaml(), "it can be run again from any folder"


def test_pictures_beside_a_file_of_rows_are_what_it_names(tmp_path: Path) -> None:
    for name in ("1.png", "2.JPG", "deep/3.png", "tone.wav", "notes.pdf"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"-")
    (tmp_path / "set/metadata.csv").write_text("file_name,label\n1.png,red\n", encoding="utf-8")
    rows, (finding,) = read_rows("set", base=tmp_path)
    assert [row for _, row in rows] == [{"file_name": "1.png", "label": "red"}]
    assert finding.what == "1 not read: notes.pdf"


@pytest.mark.parametrize("name", ["results_20130124.token", "Flickr8k.token.txt"])
def test_flickrs_token_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(
        "10_69.jpg#0\tA child in a dress .\n10_69.jpg#1\tA girl .\n\nno tab\n", encoding="utf-8"
    )
    rows, (finding,) = read_rows(name, base=tmp_path)
    assert [(source.line, row) for source, row in rows] == [
        (1, {"image": "10_69.jpg", "caption": "A child in a dress ."}),
        (2, {"image": "10_69.jpg", "caption": "A girl ."}),
    ]
    assert (finding.code, finding.where) == ("data.malformed", f"{name}:4")


def test_a_data_set_saved_by_the_datasets_library(tmp_path: Path) -> None:
    """Its classes are read by name, in Parquet too; -1 is a hidden label; files that describe it are no rows."""
    datasets: Any = pytest.importorskip("datasets")
    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    made = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=kinds)
    made.save_to_disk(tmp_path / "saved")
    made.to_parquet(tmp_path / "rows.parquet")
    expected = [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}, {"text": "c", "label": None}]
    for name in ("saved", "rows.parquet"):
        rows, findings = read_rows(name, base=tmp_path)
        assert [row for _, row in rows] == expected, name
        assert findings == []
    (tmp_path / "saved/data-00000-of-00001.arrow").write_bytes(b"no table")
    _, (finding,) = read_rows("saved", base=tmp_path)
    assert finding.code == "data.malformed"
    (tmp_path / "state.json").write_text(json.dumps({"a": 1}), encoding="utf-8")
    assert read_rows("state.json", base=tmp_path)[0], "by itself it is a file as any"
