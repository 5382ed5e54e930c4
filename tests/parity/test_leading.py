"""A picture as a few query tokens before the row, and a language model inside (BLIP-2): rows, loss and answers are
those of transformers' own processor and model, built small from a config.
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
from luthier.models.leading import LeadingBackbone
from luthier.models.load import load
from luthier.objectives.next_token import Objective, Options
from luthier.tasks import vqa
from luthier.types import Example, Refused, Source

ASKED = [("the cat", "red"), ("and the small old house", "blue river"), ("dog", "green")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return families.save("blip-2", tmp_path_factory.mktemp("blip-2"))


@pytest.fixture
def backbone(folder: str) -> LeadingBackbone:
    return families.opened(folder, LeadingBackbone)


def examples(pictures: list[Path]) -> list[Example]:
    return [
        Example(Source("x", at), text=text, targets=[answer], images=[pictures[at]])
        for at, (text, answer) in enumerate(ASKED)
    ]


def theirs(folder: str, example: Example, *, answer: bool = True) -> dict[str, Any]:
    processor = transformers.AutoProcessor.from_pretrained(folder)
    text = f"{example.text}\nAnswer:" + (f" {(example.targets or [''])[0]}</s>" if answer else "")
    image = Image.open((example.images or [])[0]).convert("RGB")  # type: ignore[arg-type]
    return dict(processor(text=text, images=[image], return_tensors="pt"))


def task() -> Any:
    return vqa.Task(vqa.Options())


def test_rows_and_the_loss_are_transformers_own(backbone: LeadingBackbone, folder: str, pictures: list[Path]) -> None:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    objective = Objective(Options(), backbone, task().encoder(backbone, 1000, "error"))
    told = examples(pictures)
    rows = [row | {"row": at} for at, one in enumerate(told) for row in objective.encode(one)]
    expected = []
    with torch.no_grad():
        for example, row in zip(told, rows, strict=True):
            made = theirs(folder, example)
            assert row["input_ids"] == made["input_ids"][0].tolist()
            assert row["input_ids"].count(backbone.image_id) == 4
            assert torch.equal(backbone.lay_out([row])["pixel_values"], made["pixel_values"])
            labels = torch.where(torch.tensor([row["supervised"]]), made["input_ids"], -100)
            expected.append(float(model(**made, labels=labels).loss) * sum(row["supervised"]))
        alone = [float(objective.loss(backbone, objective.collate([row])).total) for row in rows]
        together = float(objective.loss(backbone, objective.collate(rows)).total)
    assert alone == pytest.approx(expected, rel=1e-5)
    assert together == pytest.approx(sum(expected), rel=1e-5)


def test_answers_are_transformers_own(backbone: LeadingBackbone, folder: str, pictures: list[Path]) -> None:
    """In a batch, as the model's own ``generate`` on the processor's output for each alone."""
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    told = examples(pictures)
    for beams in (1, 2):
        rows = [task().row(backbone, example, None, 1000) for example in told]
        found = generate(backbone, rows, max_new_tokens=5, num_beams=beams)
        for example, written in zip(told, found, strict=True):
            made = theirs(folder, example, answer=False)
            ids = model.generate(**made, max_new_tokens=5, num_beams=beams, do_sample=False, eos_token_id=1)
            ids = ids[0, made["input_ids"].shape[1] :].tolist()
            assert written == (ids[: ids.index(1)] if 1 in ids else ids)


def test_a_picture_is_never_cut_and_one_is_shown(backbone: LeadingBackbone, pictures: list[Path]) -> None:
    row = backbone.row_of("<image>" + "the cat " * 20, "\n", "red", list(pictures[:1]), 20)
    assert len(row["input_ids"]) == 20
    assert row["input_ids"][:4] == [backbone.image_id] * 4
    assert sum(row["supervised"]) == 2
    for source, some in (("<image> the <image>", pictures[:1]), ("<image><image>", pictures[:2]), ("the", [])):
        with pytest.raises(Refused) as refused:
            backbone.row_of(source, "", "red", list(some), 20)
        assert refused.value.findings[0].code == "data.picture-marks"


def test_parts_have_their_roles(backbone: LeadingBackbone) -> None:
    assert {*backbone.roles} == {"vision", "text", "projector"}
    assert backbone.seams.head == ["language_model.lm_head"]
    held = backbone.roles["projector"].names
    assert {"query_tokens", "qformer", "language_projection"} <= {*held}


def test_a_language_model_of_two_stacks_is_refused(tmp_path: Path) -> None:
    model = families.save_leading(tmp_path / "model", 0, "t5")
    with pytest.raises(Refused) as refused:
        load("vlm", model, "token_logits")
    assert refused.value.findings[0].code == "model.head"
