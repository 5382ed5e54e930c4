"""Captions and answers about pictures, scored as the code that everyone quotes scores them (recorded:
``tests/parity/captions/record.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.evaluate import captions, vqa

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "captions/scores.json").read_text(encoding="utf-8"))
CAPTIONS, VQA = RECORDED["captions"], RECORDED["vqa"]


def test_cider_d_and_rouge_l_are_cocos() -> None:
    """On the words of COCO's tokenizer, picture by picture; the wrong captions among them score low."""
    found = captions.cider_d(CAPTIONS["words"], CAPTIONS["reference_words"])
    assert found == pytest.approx(CAPTIONS["cider_d"], abs=1e-9)
    assert max(found[2::3]) < 0.1 < min(one for at, one in enumerate(found) if at % 3 != 2)
    longest = [captions.rouge_l(*pair) for pair in zip(CAPTIONS["words"], CAPTIONS["reference_words"], strict=True)]
    assert longest == pytest.approx(CAPTIONS["rouge_l"], abs=1e-9)


def test_words_are_cocos_on_real_captions() -> None:
    pairs = zip(CAPTIONS["written"], CAPTIONS["words"], strict=True)
    assert [captions.words(text) for text, _ in pairs] == CAPTIONS["words"]
    texts = [text for some in CAPTIONS["references"] for text in some]
    theirs = [words for some in CAPTIONS["reference_words"] for words in some]
    assert [captions.words(text) for text in texts] == theirs


def test_answers_are_normalised_as_vqa_does() -> None:
    assert {text: vqa.normalised(text) for text in VQA["normalised"]} == VQA["normalised"]


@pytest.mark.parametrize("name", VQA["ten"])
def test_accuracy_is_vqas(name: str) -> None:
    found = {text: vqa.accuracy(text, VQA["ten"][name]) for text in VQA["accuracy"][name]}
    assert found == pytest.approx(VQA["accuracy"][name], abs=1e-12)
    assert (max(found.values()) > 0) == (name != "same")  # articles leave what was written, and not what people said
