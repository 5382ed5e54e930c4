"""CIDEr-D, ROUGE-L and the accuracy of VQA on a few words, reckoned by hand."""

from __future__ import annotations

import math

import pytest

from luthier.evaluate import captions, vqa


def test_cider_d_of_a_word() -> None:
    """Two pictures, one reference each: "red cat" and "red dog". "red" is in both: weight log 2 - log 2 = 0; "cat",
    "dog" and the pairs in one: weight log 2.

    Written "red cat" of the first: single words cos = 1 (all the weight is on "cat"), pairs cos = 1, longer ones 0;
    the lengths are equal: 10 · (1 + 1 + 0 + 0)/4 = 5. Written "red" of the second: its vector is 0, so 0.
    """
    references = [[["red", "cat"]], [["red", "dog"]]]
    assert captions.cider_d([["red", "cat"], ["red"]], references) == pytest.approx([5.0, 0.0])


def test_what_is_said_too_often_is_clipped_and_too_long() -> None:
    """Written "cat cat cat" of "cat", beside a picture of a "dog": g = 3 log 2 and log 2, so min(g) g / |g||g| =
    log² 2 / (3 log 2 · log 2) = 1/3; there are two pairs more than in the reference: exp(-2²/72).
    10 · (1/3)/4 · exp(-1/18).
    """
    found = captions.cider_d([["cat"] * 3, ["dog"]], [[["cat"]], [["dog"]]])
    assert found == pytest.approx([10 / 12 * math.exp(-1 / 18), 2.5])


def test_one_picture_has_no_rare_words() -> None:
    assert captions.cider_d([["cat"]], [[["cat"]]]) == [0.0]


def test_rouge_l() -> None:
    """ "a b c" and "a c d e": 2 in common, P = 2/3, R = 2/4, β² = 1.44: F = 2.44 P R / (R + 1.44 P)
    = 2.44 · 1/3 / (1/2 + 1.44 · 2/3).
    """
    assert captions.rouge_l("abc", ["acde"]) == pytest.approx(2.44 / 3 / 1.46)
    assert captions.rouge_l("", ["a"]) == 0.0


@pytest.mark.parametrize(("yes", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_leaves_each_person_out(yes: int, expected: float) -> None:
    """n of ten say yes: left out one of them n-1 others do, else n. n = 1: 1 · 0 + 9 · 1/3 = 3; n = 2: 2 · 1/3 +
    8 · 2/3 = 6; n = 3: 3 · 2/3 + 7 · 1 = 9; n = 4: 10; each over 10.
    """
    assert vqa.accuracy("Yes", ["yes"] * yes + ["no"] * (10 - yes)) == pytest.approx(expected)


def test_accuracy_of_vqa_wants_several_people() -> None:
    assert set(vqa.with_intervals(["yes"], [["yes"]])) == {"exact_match"}
    assert set(vqa.with_intervals(["yes"], [["yes"] * 10])) == {"exact_match", "vqa_accuracy"}
