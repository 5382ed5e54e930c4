"""A model that reads its prompt both ways (PaliGemma): rows, loss and answers are those of transformers' own processor
and model, built small from a config.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import families
from luthier.evaluate.generate import generate
from luthier.models.vision.prefix_lm import PrefixBackbone
from luthier.objectives.next_token import Objective, Options
from luthier.tasks import caption, vqa
from luthier.types import Example, Refused, Source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return families.save("paligemma", tmp_path_factory.mktemp("paligemma"))


@pytest.fixture
def backbone(folder: str) -> PrefixBackbone:
    return families.opened(folder, PrefixBackbone)


def asked(pictures: list[Path]) -> list[tuple[Example, str]]:
    """One picture, two before a longer question, and one where its mark stands; with what the processor is given."""
    told = [
        ("the cat", "red", pictures[:1], "<image>the cat"),
        ("and the small old house", "blue river", pictures[:2], "<image><image>and the small old house"),
        ("small <image> dog", "green", pictures[2:3], "small <image> dog"),
    ]
    return [
        (Example(Source("x", at), text=text, targets=[answer], images=list(some)), given)
        for at, (text, answer, some, given) in enumerate(told)
    ]


def theirs(folder: str, example: Example, given: str, *, answer: bool = True) -> dict[str, torch.Tensor]:
    from PIL import Image

    processor = transformers.AutoProcessor.from_pretrained(folder)
    images = [Image.open(one).convert("RGB") for one in example.images or []]  # type: ignore[arg-type]
    suffix = {"suffix": (example.targets or [""])[0]} if answer else {}
    made = dict(processor(text=given + "\nAnswer:", images=[images], return_tensors="pt", **suffix))
    made["pixel_values"] = made["pixel_values"].flatten(0, -4)  # all pictures end to end
    return made


def encoder(backbone: PrefixBackbone, limit: int = 1000) -> Any:
    return vqa.Task(vqa.Options()).encoder(backbone, limit, "truncate")


def test_rows_are_the_processors(backbone: PrefixBackbone, folder: str, pictures: list[Path]) -> None:
    """Ids, which of them are a prompt, what is learned, and tensors."""
    for example, given in asked(pictures):
        (row,), made = encoder(backbone)(example), theirs(folder, example, given)
        assert row["input_ids"] == made["input_ids"][0].tolist()
        assert row["supervised"] == (made["labels"][0] >= 0).tolist()
        tensors = backbone.lay_out([row])
        assert torch.equal(tensors["token_type_ids"], made["token_type_ids"])
        assert torch.equal(tensors["pixel_values"], made["pixel_values"])


def test_the_loss_is_transformers_own(backbone: PrefixBackbone, folder: str, pictures: list[Path]) -> None:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    objective = Objective(Options(), backbone, encoder(backbone))
    told = asked(pictures)
    rows = [row | {"row": at} for at, (one, _) in enumerate(told) for row in objective.encode(one)]
    expected = []
    with torch.no_grad():
        for (example, given), row in zip(told, rows, strict=True):
            expected.append(float(model(**theirs(folder, example, given)).loss) * sum(row["supervised"]))
        alone = [float(objective.loss(backbone, objective.collate([row])).total) for row in rows]
        together = float(objective.loss(backbone, objective.collate(rows)).total)
    assert alone == pytest.approx(expected, rel=1e-5)
    assert together == pytest.approx(sum(expected), rel=1e-5)


def test_a_prompt_is_read_both_ways(backbone: PrefixBackbone, pictures: list[Path]) -> None:
    """Its last word changes the hidden state of its first; what is written changes none before it."""
    (row,) = encoder(backbone)(asked(pictures)[1][0])
    end, first = row["prompt_length"], row["input_ids"].index(0) + 1
    states = []
    for at, token in ((None, 0), (end - 2, 7), (end, 7)):
        ids = [token if place == at else one for place, one in enumerate(row["input_ids"])]
        with torch.no_grad():
            states.append(backbone.hidden(_batch(backbone, row | {"input_ids": ids, "row": 0})))
    assert not torch.allclose(states[0][first], states[1][first], atol=1e-3)
    assert torch.allclose(states[0][:end], states[2][:end], atol=1e-6)


def _batch(backbone: PrefixBackbone, row: dict[str, Any]) -> Any:
    from luthier.types import Batch

    return Batch(backbone.lay_out([row]), [0])


def test_answers_are_transformers_own(backbone: PrefixBackbone, folder: str, pictures: list[Path]) -> None:
    """In a batch, as the model's own ``generate`` on the processor's output for each alone."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    told = asked(pictures)
    task = vqa.Task(vqa.Options())
    prompts = [task.row(backbone, example, None, 1000) for example, _ in told]
    found = generate(backbone, prompts, max_new_tokens=5)
    for (example, given), written in zip(told, found, strict=True):
        made = theirs(folder, example, given, answer=False)
        made.pop("labels", None)
        ids = model.generate(**made, max_new_tokens=5, do_sample=False)[0, made["input_ids"].shape[1] :].tolist()
        assert written == (ids[: ids.index(1)] if 1 in ids else ids)


def test_what_is_too_long_loses_the_end_of_its_question(backbone: PrefixBackbone, pictures: list[Path]) -> None:
    """The prompt's close, its pictures and what is to be written stay; with no room for these nothing is learned."""
    example = asked(pictures)[1][0]
    (whole,), (cut,) = (encoder(backbone, limit)(example) for limit in (1000, 38))
    closing = whole["input_ids"][whole["prompt_length"] - 1 :]
    assert len(cut["input_ids"]) == 38 < len(whole["input_ids"]) == cut["full_length"]
    assert cut["input_ids"][cut["prompt_length"] - 1 :] == closing
    assert cut["input_ids"].count(backbone.image_id) == 32
    assert sum(cut["supervised"]) == sum(whole["supervised"])
    assert cut["input_ids"][:33] == whole["input_ids"][:33]
    assert not any(backbone.row_of("<image>the", "", "red " * 30, pictures[:1], 20)["supervised"])


def test_marks_are_as_many_as_pictures(backbone: PrefixBackbone, pictures: list[Path]) -> None:
    for text, some in (("<image> and <image>", pictures[:1]), ("the cat", [])):
        example = Example(Source("x", 3), text=text, targets=["red"], images=some)  # type: ignore[arg-type]
        with pytest.raises(Refused) as refused:
            caption.Task(caption.Options()).encoder(backbone, 100, "truncate")(example)
        (finding,) = refused.value.findings
        assert finding.code == "data.picture-marks"
        assert finding.where == "x:3:text"


def test_a_row_that_does_not_say_where_its_prompt_ends_is_refused(
    backbone: PrefixBackbone, pictures: list[Path]
) -> None:
    (row,) = encoder(backbone)(asked(pictures)[0][0])
    del row["prompt_length"]
    with pytest.raises(Refused) as refused:
        backbone.lay_out([row])
    assert refused.value.findings[0].code == "model.processor"
