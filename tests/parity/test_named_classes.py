"""Classes that the recipe names: pictures are told apart by all of them, also where the judged rows have only one.

Axes: I pictures, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import luthier
import tiny
from luthier.data.media.pictures import decode
from luthier.evaluate.matching import settle_pairs
from luthier.types import Example, Refused, Source

NAMES = ["red", "green", "blue", "cat", "7"]


def tuned(folder: Path, says: str = "caption", **match: Any) -> Any:
    rows = []
    for i in range(12):
        colour = ("red", "green", "blue")[i % 3]
        tiny.save_picture(folder / f"{i}.png", colour, size=33 + i, seed=i)
        rows.append({"image": f"{i}.png", says: colour})
    data = {"train": tiny.write_jsonl(folder / "rows.jsonl", rows), "eval": 0.0}
    model = tiny.save_dual_model("clip", folder / "clip")
    return luthier.tune(
        task="match", model=model, data=data, method="full", steps=2, learning_rate=1e-3, out=str(folder), match=match
    )


def transformers_order(folder: Path, pictures: list[Path], texts: list[str]) -> list[list[int]]:
    """Classes of each picture by falling ``logits_per_image``, by transformers alone: (I, C)."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(texts, return_tensors="pt", padding=True)
    pixels = processor([decode(one)[0] for one in pictures], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return model(**tokens, pixel_values=torch.as_tensor(pixels)).logits_per_image.argsort(descending=True).tolist()


def test_accuracy_is_among_all_of_them(tmp_path: Path) -> None:
    """A file whose rows are all of one class: 1.0 among its own labels, and what transformers says among the named."""
    run = tuned(tmp_path, labels=["red", "green", "blue", "cat", 7], templates="the {}")
    pictures = [tmp_path / f"{i}.png" for i in range(12)]
    best = [order[0] for order in transformers_order(run.folder / "final", pictures, [f"the {n}" for n in NAMES])]
    chosen = next(c for c in range(5) if 0 < best.count(c) < 12)
    rows = [{"image": str(picture), "label": NAMES[chosen]} for picture in pictures]
    data = tiny.write_jsonl(tmp_path / "labels.jsonl", rows)
    found = run.evaluate(data)["metrics"]["accuracy"]
    assert (found["value"], found["n"]) == (pytest.approx(best.count(chosen) / 12), 12)
    examples = [Example(Source("labels.jsonl", 1), images=[one], label=NAMES[chosen]) for one in pictures]
    assert [row["decided"] for row in run.predictor.told(examples)] == [NAMES[c] for c in best]
    open_run = luthier.load(run.folder, ["match.labels=[]"])
    assert open_run.evaluate(data)["metrics"]["accuracy"]["value"] == 1.0
    assert luthier.load(run.folder, [f"match.labels=[{NAMES[chosen]}, cow]"]).evaluate(data)["rows"] == 12


def test_texts_beside_the_rows_are_ranked_too() -> None:
    """The picture (3, 4)/5 with its text (1, 0): cosine 0.6; (0, 1) is nearer with 0.8, (-1, 0) is not."""
    east, north, west = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0])
    row = {"keys": [1, 11]}
    (alone,) = settle_pairs([torch.stack([torch.tensor([0.6, 0.8]), east])], [row])
    (beside,) = settle_pairs([torch.stack([torch.tensor([0.6, 0.8]), east])], [row], [west, north])
    assert (alone["image_to_text"], alone["best_text"]) == (1, 0)
    assert (beside["image_to_text"], beside["best_text"], beside["text_to_image"]) == (2, 2, 1)


def test_labels_that_are_not_among_them_are_told_by_row(tmp_path: Path) -> None:
    run = tuned(tmp_path, labels=NAMES)
    rows = [{"image": str(tmp_path / "0.png"), "label": label} for label in ("red", "rad", "Red.", "river")]
    with pytest.raises(Refused) as refused:
        run.evaluate(tiny.write_jsonl(tmp_path / "labels.jsonl", rows))
    told = [(one.code, one.where.rpartition("/")[2], one.mend.startswith("did you mean 'red'")) for one in
            refused.value.findings]  # fmt: skip
    assert told == [
        ("data.unknown-label", "labels.jsonl:2:label", True), ("data.unknown-label", "labels.jsonl:4:label", False),
    ]  # fmt: skip
    with pytest.raises(Refused) as refused:
        tuned(tmp_path / "classes", says="label", labels=["red", "green"])
    assert {one.code for one in refused.value.findings} == {"data.unknown-label"}
    assert len(refused.value.findings) == 4, "the four blue rows"


@pytest.mark.parametrize(
    ("labels", "why"), [(["red"], "no choice"), (["red", "Red "], "the same"), (["a", ""], "name")]
)
def test_lists_that_are_no_choice_are_refused(labels: list[str], why: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        tuned(tmp_path, labels=labels)
    (finding,) = refused.value.findings
    assert "match.labels" in finding.where
    assert why in finding.what
