"""What is typed as an input, or named as a file, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import luthier
import tiny
from luthier.data.formats.choose import read_examples
from luthier.data.media.pictures import BadPicture, decode, missing
from luthier.reports.loading import loading_code
from luthier.runs.finding.gallery import _captions
from luthier.runs.typed import rows_to_answer, turns, typed_inputs
from luthier.tasks.pictures import given_pictures
from luthier.types import Refused


def test_a_row_is_told_from_a_text_by_its_columns() -> None:
    lines = ['{"image": "a.png", "question": "q"}', '{"level": "error"}', "{no JSON}", "[1]", "a text", ' {"image": 1}']
    row, *texts, spaced = typed_inputs(lines, ["image-question-answer"])
    assert row == {"image": "a.png", "question": "q"}
    assert texts == lines[1:-1]
    assert spaced == {"image": 1}


def test_a_path_that_is_none(tmp_path: Path) -> None:
    picture = tiny.save_picture(tmp_path / "red.png", "red")
    assert missing(str(picture)) is None
    assert missing("a red house") is None
    lost = missing(str(tmp_path / "rde.png"))
    assert lost is not None
    assert str(picture) in lost.mend


@pytest.mark.parametrize("address", ["https://example.org/a.png", "data:image/png;base64,AAAA", "file:///a.png"])
def test_an_address_is_no_path(address: str, tmp_path: Path) -> None:
    with pytest.raises(BadPicture) as bad:
        decode(tmp_path / address)
    assert "is an address" in bad.value.what


def test_captions_are_found_by_the_columns_that_were_learned_from(tmp_path: Path) -> None:
    named = Path(tiny.write_jsonl(tmp_path / "named.jsonl", [{"image": "a.png", "name": "a heart"}] * 2))
    usual = Path(tiny.write_jsonl(tmp_path / "usual.jsonl", [{"image": "a.png", "caption": "a star"}]))
    labels = Path(tiny.write_jsonl(tmp_path / "labels.jsonl", [{"image": "a.png", "label": "star"}]))
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text('{"image": "a.png", "caption": ', encoding="utf-8")

    def found(path: Path, **columns: str) -> Any:
        matcher: Any = SimpleNamespace(backbone=SimpleNamespace(sounds=None), columns=columns)
        read = _captions(path, matcher)
        return None if read is None else [*(one.targets for one in read.examples), *(f.code for f in read.findings)]

    assert found(named, caption="name") == [["a heart"], ["a heart"]]
    assert found(usual, caption="name") == [["a star"]]
    assert found(labels) is None
    assert found(named) is None
    assert found(damaged) == ["data.malformed"]


def test_a_batch_of_one_pair_has_nothing_to_be_told_from(tmp_path: Path) -> None:
    rows = []
    for i in range(12):
        tiny.save_picture(tmp_path / f"{i}.png", ("red", "green")[i % 2], seed=i)
        rows.append({"image": f"{i}.png", "caption": f"the {tiny.WORDS[i % 9]} {i}"})
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    model = tiny.save_dual_model("clip", tmp_path / "clip")
    for size, told in ((1, ["batch_size"]), (2, [])):
        findings, _ = luthier.check(task="match", model=model, data=data, method="lora", batch_size=size)
        assert [one.where for one in findings if one.severity == "error"] == told


def test_rows_of_a_file_name_pictures_beside_it(tmp_path: Path) -> None:
    for name in ("beside.png", "in.png"):
        tiny.save_picture(tmp_path / ("some" if name == "in.png" else "rows") / name, "red")
    part = {"type": "image", "image": "beside.png"}
    given = [
        {"pic": "beside.png", "text": "beside.png"}, {"images": ["in.png", "none.png"]},
        {"messages": [{"role": "user", "content": [part]}]}, {"image": {"bytes": None, "path": "in.png"}},
    ]  # fmt: skip
    path = tiny.write_jsonl(tmp_path / "rows/asked.jsonl", given)
    beside, elsewhere = str(tmp_path / "rows/beside.png"), str(tmp_path / "some/in.png")
    first, second, turns, held = rows_to_answer(path, {"image": "pic"}, [tmp_path / "some"])
    assert first == {"pic": "beside.png", "text": "beside.png", "image": beside}
    assert second == {"images": [elsewhere, "none.png"]}
    assert turns["messages"][0]["content"] == [part | {"image": beside}]
    assert given_pictures([held["image"], {"bytes": b"x", "path": "y"}]) == [Path(elsewhere), b"x"]


def test_questions_without_answers_are_answered_and_not_learned_from(tmp_path: Path) -> None:
    path = tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json"
    asked = {"image_id": 9, "question": "What is it?", "question_id": 90}
    path.write_text(json.dumps({"data_subtype": "test2015", "questions": [asked]}), encoding="utf-8")
    (row,) = rows_to_answer(str(path), {}, [])
    assert (row["question"], row["image"]) == ("What is it?", "COCO_test2015_000000000009.jpg")
    read = read_examples(str(path), base=tmp_path, prefer=["image-question-answer"])
    assert (read.examples, [one.code for one in read.findings]) == ([], ["data.missing"])
    with pytest.raises(Refused):
        rows_to_answer(str(tmp_path / "nowhere.jsonl"), {}, [])


def test_what_is_said_as_turns() -> None:
    picture, text = {"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}
    plain = {"role": "user", "content": "What is it?"}
    assert turns("What is it?") == turns({"question": "What is it?"}) == turns({"messages": [plain]}) == [plain]
    shown = [{"role": "user", "content": [picture, text]}]
    assert turns("What is it?", ["a.png"]) == turns({"image": "a.png", "prompt": "What is it?"}) == shown
    both = turns({"images": ["b.png"], "prompt": "What is it?"}, ["a.png"])
    assert both[0]["content"] == [picture, picture | {"image": "b.png"}, text]


@pytest.mark.parametrize(
    ("task", "row"),
    [("caption", {"image"}), ("vqa", {"image", "question"}), ("chat", {"image", "prompt"})],
)
def test_a_card_asks_as_the_task_is_asked(task: str, row: set[str]) -> None:
    code = loading_code({"task": task, "model": {"reads": ["image", "text"]}}, [], {})
    (asked,) = [json.loads(line[line.index("{") : line.index("}") + 1]) for line in code.splitlines() if "{" in line]
    assert asked.keys() == row
