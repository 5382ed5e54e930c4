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
from luthier.models.vision.describing import DescribingBackbone
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


QUESTIONS = [("the cat", "red"), ("and the small old house", "blue river"), ("dog", "green")]


def asking(folder: str) -> Any:
    """Donut is asked by its tags, others in words."""
    return vqa.Task(vqa.Options(**(families.DONUT if is_donut(folder) else {})))


def is_donut(folder: str) -> bool:
    return "<s_docvqa>" in transformers.AutoTokenizer.from_pretrained(folder).get_vocab()


def asked(pictures: list[Path]) -> list[Example]:
    return [
        Example(Source("x", at), text=text, targets=[answer], images=[pictures[at]])
        for at, (text, answer) in enumerate(QUESTIONS)
    ]


def begun(folder: str, words: Any, question: str) -> tuple[list[int], str]:
    """What a decoder is given before it answers, and the text after it: Donut's prompt, no start token before it."""
    if is_donut(folder):
        prompt = f"<s_docvqa><s_question>{question}</s_question><s_answer>"
        return words(prompt, add_special_tokens=False)["input_ids"], "</s_answer>"
    start = transformers.AutoConfig.from_pretrained(folder).decoder_start_token_id
    return [start, *words(f"{question}\nAnswer:", add_special_tokens=False)["input_ids"]], ""


def test_a_question_is_read_and_never_learned(backbone: DescribingBackbone, folder: str, pictures: list[Path]) -> None:
    """The loss is transformers' own on what the decoder is fed, with labels on the answer and its end alone; what is
    fed is, but for the last token, the prompt and the answer as one text."""
    model = transformers.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    objective = Objective(Options(), backbone, asking(folder).encoder(backbone, 1000, "error"))
    rows = [row | {"row": at} for at, one in enumerate(asked(pictures)) for row in objective.encode(one)]
    assert len({len(row["input_ids"]) for row in rows}) > 1
    expected = []
    with torch.no_grad():
        for example, row in zip(asked(pictures), rows, strict=True):
            prompt, closing = begun(folder, words, str(example.text))
            space = "" if closing else " "
            answer = words(f"{space}{(example.targets or [''])[0]}{closing}", add_special_tokens=False)["input_ids"]
            end = words.sep_token_id or words.eos_token_id
            assert (row["input_ids"], row["target_ids"]) == (prompt, [*answer, end])
            labels = torch.tensor([[-100] * (len(prompt) - 1) + [*answer, end]])
            fed = torch.tensor([[*prompt, *answer]])
            made = model(pixel_values=pixels(folder, example), decoder_input_ids=fed, labels=labels)
            expected.append(float(made.loss) * (len(answer) + 1))
        alone = [float(objective.loss(backbone, objective.collate([row])).total) for row in rows]
        together = float(objective.loss(backbone, objective.collate(rows)).total)
    assert alone == pytest.approx(expected, rel=1e-5)
    assert together == pytest.approx(sum(expected), rel=1e-5)


def test_answers_are_transformers_own(backbone: DescribingBackbone, folder: str, pictures: list[Path]) -> None:
    """Of questions of different lengths together, greedily and by beams."""
    model: Any = transformers.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    rows = [asking(folder).row(backbone, example, None, 1000) for example in asked(pictures)]
    ends = sorted({model.config.eos_token_id, words.eos_token_id})
    for beams in (1, 2):
        found = generate(backbone, rows, max_new_tokens=5, num_beams=beams)
        for example, written in zip(asked(pictures), found, strict=True):
            prompt, _ = begun(folder, words, str(example.text))
            ids = model.generate(
                pixel_values=pixels(folder, example), decoder_input_ids=torch.tensor([prompt]), max_new_tokens=5,
                num_beams=beams, do_sample=False, decoder_start_token_id=model.config.decoder_start_token_id,
                eos_token_id=ends,
            )[0].tolist()  # fmt: skip
            assert ids[: len(prompt)] == prompt
            rest = ids[len(prompt) :]
            assert written == rest[: next((at for at, one in enumerate(rest) if one in ends), len(rest))]


def test_a_long_question_loses_its_end_and_one_picture_is_shown(
    backbone: DescribingBackbone, folder: str, pictures: list[Path]
) -> None:
    long = Example(Source("x", 0), text="the cat " * 30, targets=["red"], images=list(pictures[:1]))
    whole, cut = (asking(folder).row(backbone, long, "red", limit) for limit in (1000, 20))
    assert len(cut["input_ids"]) + len(cut["target_ids"]) - 1 == 20
    assert cut["target_ids"] == whole["target_ids"]
    assert cut["full_length"] == whole["full_length"] > 20
    closing = 2 if is_donut(folder) else len(backbone.tokenizer("\nAnswer:", add_special_tokens=False)["input_ids"])
    assert cut["input_ids"][-closing:] == whole["input_ids"][-closing:]
    assert cut["input_ids"][:-closing] == whole["input_ids"][: len(cut["input_ids"]) - closing]
    none = asking(folder).row(backbone, long, "red", closing)
    assert none["target_ids"] == []
    for source, some in (("<image> the <image>", 1), ("<image><image>", 2), ("the", 0)):
        with pytest.raises(Refused) as refused:
            backbone.row_of(source, "", "red", list(pictures[:some]), 20)
        assert refused.value.findings[0].code == "data.picture-marks"


def test_a_caption_is_asked_for_only_where_the_recipe_or_the_row_does(
    backbone: DescribingBackbone, pictures: list[Path]
) -> None:
    """`caption.prompt` is of models that can't begin without one; `prefix` is a decoder's task, as `<s_cord-v2>`."""
    (plain,) = task().encoder(backbone, 100, "error")(told(pictures)[0])
    assert plain["input_ids"] == [backbone.model.config.decoder_start_token_id]
    tagged = caption.Task(caption.Options(prefix="the"))
    (row,) = tagged.encoder(backbone, 100, "error")(told(pictures)[0])
    prompt = backbone.tokenizer("the", add_special_tokens=False)["input_ids"]
    assert row["input_ids"][-len(prompt) :] == prompt


def test_what_ends_an_answer_is_learned_and_not_told(backbone: DescribingBackbone, pictures: list[Path]) -> None:
    closes = vqa.Task(vqa.Options(closing=" river"))
    row = closes.row(backbone, asked(pictures)[0], "red", 100)
    assert backbone.tokenizer.decode(row["target_ids"], skip_special_tokens=True).strip() == "red river"
    assert closes.written(row, {"text": "red river"}) == {"text": "red"}
    assert closes.written(row, {"text": "red"}) == {"text": "red"}


def test_a_caption_over_the_limit_is_left_out_whole(backbone: DescribingBackbone, pictures: list[Path]) -> None:
    row = backbone.row_of("", "", "the red cat and the dog", list(pictures[:1]), 3)
    assert row["target_ids"] == []
    assert row["full_length"] > 3
