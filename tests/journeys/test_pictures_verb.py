"""Pictures as a person uses them: photographs by class, bad files told by row, questions about pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typed import session

import luthier
import tiny


def test_photographs_of_clothing(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """Real weights on 200 photographs: frozen vectors with a linear classifier beat the most frequent class by far."""
    model, data = shared("models/mobilenet_v1_0.25_128"), shared("data/clothing")
    rows = [json.loads(line) for line in (data / "labels.jsonl").read_text().splitlines()]
    some = [row | {"image": str(data / row["image"])} for row in rows[::10]]
    tiny.write_jsonl(tmp_path / "some.jsonl", some)
    words = f"--task classify --model {model} --data some.jsonl data.eval=0.3 name=probe"
    photo = next(iter((data / "images").iterdir()))
    tuned, predicted = session(tmp_path, f"tune {words} --method features", f"predict runs/probe {photo} --json")
    assert tuned.code == 0, tuned.err
    assert "accuracy" in tuned.out
    after = json.loads((tmp_path / "runs/probe/result.json").read_text())["after"]["accuracy"]
    assert after["value"] > 0.4
    (answer,) = predicted.json
    assert answer["label"] in {row["label"] for row in some}


def test_bad_pictures_are_told_by_row_before_the_first_step(tmp_path: Path) -> None:
    model = tiny.save_image_model("vit", tmp_path / "model")
    rows = []
    for i in range(6):
        tiny.save_picture(tmp_path / f"{i}.png", ("red", "green")[i % 2], seed=i)
        rows.append({"image": f"{i}.png", "label": "ab"[i % 2]})
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "half.png").write_bytes((tmp_path / "0.png").read_bytes()[:900])
    rows += [{"image": name, "label": "a"} for name in ("text.jpg", "half.png", "gone.png")]
    tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    tiny.write_jsonl(tmp_path / "asked.jsonl", [{"picture": "0.png"}, {"file_name": "0.png"}])
    words = f"tune --task classify --model {model} --data rows.jsonl --method full"
    (refused,) = session(tmp_path, words)
    assert refused.code == 2
    told = " ".join((refused.out + refused.err).split())
    for line, why in ((7, "is no picture"), (8, "is damaged"), (9, "no such file")):
        assert f"rows.jsonl:{line}:image" in told
        assert why in told
    assert not (tmp_path / "runs").exists()

    # Left out where that is wished, each told; up to a number.
    skips = f"{words} data.on_bad_row=skip steps=1 name=run"
    many, tuned, *asked = session(
        tmp_path, f"{skips} data.max_bad_rows=2", skips, "predict runs/run --data asked.jsonl --json",
        "predict runs/run 0.png --json",
    )  # fmt: skip
    assert (many.code, "3 bad rows are more than" in " ".join(many.out.split())) == (2, True)
    assert tuned.code == 0, tuned.out + tuned.err
    assert all(f"rows.jsonl:{line}:image" in tuned.out for line in (7, 8, 9))
    result = json.loads((tmp_path / "runs/run/result.json").read_text())
    assert result["data"]["train"]["used"] + result["data"]["train"]["skipped"]["unusable"] == len(rows)
    assert asked[0].json[0]["label"] == asked[0].json[1]["label"] == asked[1].json[0]["label"]


@pytest.mark.parametrize("fuse", ["projection", "concatenation"])
def test_a_question_about_a_picture(fuse: str, tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    image = tiny.save_image_model("vit", tmp_path / "model")
    rows = []
    for i in range(24):
        tiny.save_picture(tmp_path / f"{i}.png", ("red", "green")[i % 2], seed=i)
        rows.append({"image": f"{i}.png", "question": "the patch", "answer": ("red", "green")[i % 2]})
    tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "recipe.yaml").write_text(
        f"task: classify\nmodel: {{image: {image}, text: {tiny_folder('bert')}, fuse: {fuse}}}\ndata: rows.jsonl\n"
        "method: full\nsteps: 2\nname: asked\n"
    )
    tiny.write_jsonl(tmp_path / "asked.jsonl", rows[:2])
    checked, tuned, evaluated = session(
        tmp_path, "check recipe.yaml", "tune recipe.yaml", "evaluate runs/asked --data asked.jsonl --json"
    )
    assert (checked.code, tuned.code) == (0, 0), checked.out + tuned.err
    assert evaluated.json["rows"] == 2
    row, other = json.dumps({"image": "0.png", "question": "the"}, separators=(",", ":")), '{"a":"b.jpg"}'
    typed, piped, no_row = session(
        tmp_path, f"predict runs/asked --json {row}", ("predict runs/asked --json", f"{row}\n"),
        f"predict runs/asked {other}",
    )  # fmt: skip
    assert typed.json == piped.json
    assert typed.json[0]["input"] == json.loads(row)
    assert (no_row.code, "there is no such file" in no_row.out + no_row.err) == (2, True), "no column of such rows"
    run = luthier.load(tmp_path / "runs/asked")
    (answer,) = run.predict([{"image": str(tmp_path / "0.png"), "question": "the patch"}])
    assert answer["label"] in ("red", "green")
