"""An encoder of pictures with a decoder that reads it alone (VisionEncoderDecoder): loss and captions are those of
transformers' own model on the same pixels and labels, with a decoder of the encoder's width and with another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

import families
from luthier.evaluate.generate import generate
from luthier.models.describing import DescribingBackbone
from luthier.objectives.next_token import Objective, Options
from luthier.tasks import caption, vqa
from luthier.types import Example, Refused, Source


@pytest.fixture(scope="module", params=families.APART)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return families.save(request.param, tmp_path_factory.mktemp("apart"))


@pytest.fixture
def backbone(folder: str) -> DescribingBackbone:
    return families.opened(folder, DescribingBackbone)


def told(pictures: list[Path]) -> list[Example]:
    captions = ["the red cat", "blue", "and the small old house"]
    return [
        Example(Source("x", at), targets=[text], images=[picture])
        for at, (text, picture) in enumerate(zip(captions, pictures, strict=False))
    ]


def task() -> Any:
    return caption.Task(caption.Options())


def pixels(folder: str, example: Example) -> torch.Tensor:
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return processor(Image.open((example.images or [])[0]).convert("RGB"), return_tensors="pt")["pixel_values"]  # type: ignore[arg-type]


def test_the_loss_is_transformers_own(backbone: DescribingBackbone, folder: str, pictures: list[Path]) -> None:
    """Its labels are the tokenizer's ids of the caption with its end, once."""
    model = transformers.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    objective = Objective(Options(), backbone, task().encoder(backbone, 1000, "error"))
    rows = [row | {"row": at} for at, one in enumerate(told(pictures)) for row in objective.encode(one)]
    expected = []
    with torch.no_grad():
        for example in told(pictures):
            ids = words((example.targets or [""])[0])["input_ids"]
            labels = torch.tensor([ids if words.sep_token_id else [*ids, words.eos_token_id]])
            expected.append(float(model(pixel_values=pixels(folder, example), labels=labels).loss) * labels.shape[1])
        alone = [float(objective.loss(backbone, objective.collate([row])).total) for row in rows]
        together = float(objective.loss(backbone, objective.collate(rows)).total)
    assert alone == pytest.approx(expected, rel=1e-5)
    assert together == pytest.approx(sum(expected), rel=1e-5)


def test_captions_are_transformers_own(backbone: DescribingBackbone, folder: str, pictures: list[Path]) -> None:
    """Greedy and by beams, in a batch."""
    model: Any = transformers.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    rows = [task().row(backbone, example, None, 1000) for example in told(pictures)]
    end = model.config.eos_token_id
    for beams in (1, 2):
        found = generate(backbone, rows, max_new_tokens=5, num_beams=beams)
        for example, written in zip(told(pictures), found, strict=True):
            start = {"decoder_start_token_id": model.config.decoder_start_token_id, "eos_token_id": end}
            ids = model.generate(
                pixel_values=pixels(folder, example), max_new_tokens=5, num_beams=beams, do_sample=False, **start
            )[0, 1:].tolist()  # fmt: skip
            assert written == (ids[: ids.index(end)] if end in ids else ids)


def test_towers_are_a_picture_s_and_a_text_s(backbone: DescribingBackbone) -> None:
    assert backbone.seams.stacks == ["image"] * 2 + ["text"] * 2
    joined = {"projector"} if "enc_to_dec_proj" in dict(backbone.model.named_modules()) else set()
    assert {*backbone.roles} == {"vision", "text"} | joined


def test_nothing_is_asked_and_one_picture_is_shown(backbone: DescribingBackbone, pictures: list[Path]) -> None:
    asked = Example(Source("x", 0), text="the cat", targets=["red"], images=list(pictures[:1]))
    two = Example(Source("x", 0), targets=["red"], images=list(pictures[:2]))
    for example, made, code in (
        (asked, vqa.Task(vqa.Options()), "model.no-text"), (two, task(), "data.picture-marks"),
    ):  # fmt: skip
        with pytest.raises(Refused) as refused:
            made.encoder(backbone, 100, "error")(example)
        assert refused.value.findings[0].code == code
    alone = Example(Source("x", 0), text="the cat", targets=["red"], images=list(pictures[:1]))
    with pytest.raises(Refused) as refused:
        task().encoder(backbone, 100, "error")(alone)
    assert refused.value.findings[0].where == "x:0:text"


def test_a_caption_over_the_limit_is_left_out_whole(backbone: DescribingBackbone, pictures: list[Path]) -> None:
    row = backbone.row_of("", "", "the red cat and the dog", list(pictures[:1]), 3)
    assert row["target_ids"] == []
    assert row["full_length"] > 3
