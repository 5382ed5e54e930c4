"""Image-text learning on numbers small enough for paper: the sigmoid loss, false negatives, recall both ways, the
temperature's bound, and rows that can't be used.

Axes: K rows, D width.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import luthier
import tiny
from luthier.evaluate import matching
from luthier.objectives.image_text import Objective
from luthier.objectives.similarity import pair_sigmoid

EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)


def vectors(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def row(picture: int, text: int, apart: tuple[int, ...] = (), others: tuple[int, ...] = ()) -> dict[str, Any]:
    """``apart``, ``others``: the contents of its negative texts and pictures."""
    made = {"keys": [picture, text, *apart, *others], "weight": 1.0, "lengths": [1] * (1 + len(apart)), "own": 1}
    return made | {"pictures": ["p"] * (1 + len(others))}


def objective(scale: float, bias: float | None = None) -> Objective:
    """Without a model: its vectors are given."""
    made = Objective.__new__(Objective)
    made.scale_parameter = nn.Parameter(torch.tensor(math.log(scale)))
    made.bias = None if bias is None else nn.Parameter(torch.tensor(bias))
    made.parameters = {"logit_scale": made.scale_parameter}
    made.highest = math.log(100)
    return made


def test_the_sigmoid_loss_of_two_orthogonal_pairs() -> None:
    """Cosines 1 and 0, times ln 3, bias 0: -ln σ(ln 3) - ln σ(0) = ln(4/3) + ln 2 for each."""
    apart = torch.zeros(2, 2, dtype=torch.bool)
    losses = pair_sigmoid(vectors(EAST, NORTH), vectors(EAST, NORTH), apart, math.log(3), 0.0)
    assert losses.tolist() == pytest.approx([math.log(4 / 3) + math.log(2)] * 2)
    # With bias -ln 3 the logits are 0 and -ln 3: ln 2 + ln(4/3).
    losses = pair_sigmoid(vectors(EAST, NORTH), vectors(EAST, NORTH), apart, math.log(3), -math.log(3))
    assert losses.tolist() == pytest.approx([math.log(4 / 3) + math.log(2)] * 2)


def test_what_belongs_to_a_picture_is_no_negative_of_it() -> None:
    """Rows (p, a), (p, b), (q, c): for p's a, b is left out; for a, the p of b's row too. Cosines times 2; x = e².

    Vectors p east, q north; a, b, c: east, west, north. Row (p, a) sees a and c, logits 2 and 0: ln((x + 1) / x), and a
    sees p and q the same. Row (p, b): logits -2 and 0, ln((1/x + 1) x) = ln(1 + x), both ways. Row (q, c) sees all, 0,
    0 and 2: ln((x + 2) / x), and so does c."""
    given = vectors(EAST, EAST, EAST, WEST, NORTH, NORTH)
    losses, weights = objective(2).row_losses(given, [row(1, 11), row(1, 12), row(2, 13)])
    x = math.e**2
    assert losses.tolist() == pytest.approx([math.log((x + 1) / x), math.log(1 + x), math.log((x + 2) / x)])
    assert weights.tolist() == [1, 1, 1]


def test_negatives_of_rows_are_told_from_every_row() -> None:
    """p and its a are east, q and its b north; p's row has a negative text n and q's a negative picture m, both west.

    InfoNCE, cosines times 2, x = e². p among a, b, n: logits 2, 0, -2; a among p, q, m the same: ln((x + 1 + 1/x) / x).
    q among a, b, n: 0, 2, 0; b among p, q, m the same: ln((x + 2) / x).
    Sigmoid, times ln 3, bias 0: -ln σ(ln 3) = ln(4/3), -ln σ(0) = ln 2. a with p, q, m: ln(4/3) + ln 2 + ln(4/3), p
    with n: ln(4/3). b with p, q, m: ln 2 + ln(4/3) + ln 2, q with n: ln 2.
    """
    given = vectors(EAST, EAST, WEST, NORTH, NORTH, WEST)
    rows = [row(1, 11, apart=(91,)), row(2, 12, others=(92,))]
    losses, weights = objective(2).row_losses(given, rows)
    x = math.e**2
    assert losses.tolist() == pytest.approx([math.log((x + 1 + 1 / x) / x), math.log((x + 2) / x)])
    assert weights.tolist() == [1, 1]
    losses, _ = objective(math.log(3), 0.0).row_losses(given, rows)
    near, even = math.log(4 / 3), math.log(2)
    assert losses.tolist() == pytest.approx([3 * near + even, near + 3 * even])


def test_a_negative_that_is_anothers_own_is_left_out_for_that_one() -> None:
    """q's row has p's own text a as its negative: p (east) sees a and b alone, logits 2 and 0; q (north) sees a twice,
    0, 2 and 0. Alone with a negative, a row has something to be told from: p among a and a west text, 2 and -2."""
    x = math.e**2
    given = vectors(EAST, EAST, NORTH, NORTH, EAST)
    losses, _ = objective(2).row_losses(given, [row(1, 11), row(2, 12, apart=(11,))])
    back = math.log((x + 1) / x)
    assert losses.tolist() == pytest.approx([back, (math.log((x + 2) / x) + back) / 2])
    losses, weights = objective(2).row_losses(vectors(EAST, EAST, WEST), [row(1, 11, apart=(91,))])
    assert weights.tolist() == [1]
    assert losses.tolist() == pytest.approx([math.log((x + 1 / x) / x) / 2], rel=1e-5)


def test_held_out_rows_are_ranked_among_their_negatives() -> None:
    """p is east; its text north-east by 0.5, a negative nearer by 0.3. A negative picture is south, behind p."""
    near, nearer = ((math.cos(angle), math.sin(angle)) for angle in (0.5, 0.3))
    outputs = [vectors(EAST, near, nearer), vectors(NORTH, NORTH, (0.0, -1.0))]
    rows = [row(1, 11, apart=(91,)), row(2, 12, others=(92,))]
    made = objective(2)
    settled = made.settle(outputs, rows)
    assert [out["image_to_text"] for out in settled] == [2, 1]
    assert [out["text_to_image"] for out in settled] == [1, 1]
    assert settled[0]["best_text"] == 2, "the first after the rows"


def test_rows_that_say_the_same_have_nothing_to_be_told_from() -> None:
    given = vectors(EAST, NORTH, WEST, NORTH)
    for made in (objective(2), objective(2, -1.0)):
        for second in (row(2, 11), row(1, 12), row(1, 11)):  # the class of another picture, another text of this one
            losses, weights = made.row_losses(given, [row(1, 11), second])
            assert weights.tolist() == [0, 0]
            assert torch.isfinite(losses).all()


def test_the_temperature_has_a_bound() -> None:
    made = objective(50)
    optimizer = torch.optim.SGD([made.scale_parameter], lr=100.0)
    for _ in range(20):
        losses, _ = made.row_losses(vectors(EAST, EAST, NORTH, NORTH), [row(1, 11), row(2, 12)])
        (losses.sum() - made.scale_parameter).backward()
        optimizer.step()
        optimizer.zero_grad()
        made.after_step()
        assert float(made.scale_parameter.detach().exp()) <= 100.001


def test_recall_both_ways() -> None:
    """Pictures p (texts a, b) and q (text c). p east, q north; a north-east of p: nearest to p; b west; c north.

    For p: a is first: hit at 1. For q: c first. For a: p first. For b (west): q (0) before p (-1): place 2. For c: q.
    Recall@1 of pictures 1, of texts 2/3; at 5 all are found; the mean of the six is (1 + 1 + 1 + 2/3 + 1 + 1) / 6.
    """
    a = (math.cos(0.1), math.sin(0.1))
    rows = [row(1, 11), row(1, 12), row(2, 13)]
    outputs = [vectors(EAST, a), vectors(EAST, WEST), vectors(NORTH, NORTH)]
    found = matching.plain(matching.settle_pairs(outputs, rows))
    assert found["image_to_text_recall@1"] == 1
    assert found["text_to_image_recall@1"] == pytest.approx(2 / 3)
    assert found["text_to_image_recall@5"] == 1
    assert found["mean_recall"] == pytest.approx((5 + 2 / 3) / 6)
    told = matching.with_intervals(matching.settle_pairs(outputs, rows))
    assert {name: one["value"] for name, one in told.items()} == pytest.approx(found)
    assert told["text_to_image_recall@1"]["low"] < 2 / 3 < told["text_to_image_recall@1"]["high"]


def test_a_text_of_two_pictures_counts_once() -> None:
    """Text a belongs to p (east) and q (west), and is east: found at once, by its nearer picture. Text b of r is never
    first: 1 of 2 texts."""
    rows = [row(1, 11), row(2, 11), row(3, 12)]
    outputs = [vectors(EAST, EAST), vectors(WEST, EAST), vectors(NORTH, WEST)]
    settled = matching.settle_pairs(outputs, rows)
    assert [out["text_to_image"] for out in settled] == [1, 1, 2]
    assert matching.plain(settled)["text_to_image_recall@1"] == pytest.approx(1 / 2)


def test_bad_rows_are_told_by_row(tmp_path: Path) -> None:
    model = tiny.save_dual_model("clip", tmp_path / "clip")
    picture = str(tiny.save_picture(tmp_path / "a.png", "red"))
    other = str(tiny.save_picture(tmp_path / "b.png", "red", seed=1))
    (tmp_path / "text.jpg").write_text("no picture")

    def errors(rows: list[dict[str, Any]], **keys: Any) -> dict[str, str]:
        data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
        recipe = {"task": "match", "model": model, "data": {"train": data, "eval": 0.0}, **keys}
        found, _ = luthier.check(**recipe)
        return {one.code: one.where for one in found if one.severity == "error"}

    good = [{"image": picture, "caption": "red"}, {"image": other, "caption": ["the house", "a cat"]}]
    assert errors(good) == {}
    assert errors([*good, {"image": picture, "caption": ""}])["data.empty-target"].endswith("rows.jsonl:3:caption")
    assert errors([*good, {"image": [picture, other], "caption": "x"}])["data.pictures"].endswith("rows.jsonl:3:image")
    assert errors([*good, {"image": "text.jpg", "caption": "x"}])["data.picture"].endswith("rows.jsonl:3:image")
    apart = {"negatives": "a green house", "negative_images": [other]}
    assert errors([good[0] | apart, good[1]]) == {}
    bad = errors([good[0] | {"negatives": "Red."}, good[1]])
    assert bad["data.same-text"].endswith("rows.jsonl:1:negatives")
    assert errors([good[0] | {"negatives": [""]}, good[1]])["data.empty-text"].endswith("rows.jsonl:1:negatives")
    bad = errors([good[0] | {"negative_images": [other, picture]}, good[1]])
    assert bad["data.same-picture"].endswith("rows.jsonl:1:negative_images")
    bad = errors([good[0], good[1] | {"negative_images": "none.png"}])
    assert bad["data.picture"].endswith("rows.jsonl:2:negative_images")
    assert "data.single-class" in errors([{"image": one, "caption": "red"} for one in (picture, other)])
    assert "model.no-vectors" in errors(good, model=tiny.save_image_model("vit", tmp_path / "vit"))
    assert "recipe.value" in errors(good, match={"templates": ["a photo"]})
