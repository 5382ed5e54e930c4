"""A picture as a few query tokens before the row, and a language model inside, a decoder or an encoder-decoder (BLIP-2,
InstructBLIP): rows, loss and answers are those of transformers' own processor and model, built small from a config.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

import families
from luthier.evaluate.generate import generate
from luthier.models.vision.leading import LeadingBackbone
from luthier.objectives.next_token import Objective, Options
from luthier.tasks import vqa
from luthier.types import Example, Refused, Source

ASKED = [("the cat", "red"), ("and the small old house", "blue river"), ("dog", "green")]
KINDS = families.LEADING


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    made: dict[str, str] = {}

    def folder(kind: str) -> str:
        if kind not in made:
            made[kind] = families.save(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder


def opened(folder: str) -> LeadingBackbone:
    return families.opened(folder, LeadingBackbone)


def examples(pictures: list[Path]) -> list[Example]:
    return [
        Example(Source("x", at), text=text, targets=[answer], images=[pictures[at]])
        for at, (text, answer) in enumerate(ASKED)
    ]


def theirs(folder: str, example: Example, *, answer: bool = True) -> dict[str, Any]:
    """What their processor makes of the question; with ``answer`` and ``labels``, as their model is trained on it."""
    processor: Any = transformers.AutoProcessor.from_pretrained(folder)
    asked, said = f"{example.text}\nAnswer:", (example.targets or [""])[0]
    image = Image.open((example.images or [])[0]).convert("RGB")  # type: ignore[arg-type]
    made = dict(processor(text=asked, images=[image], return_tensors="pt"))
    if answer and folder_is_pair(folder):
        made["labels"] = processor.tokenizer(said, return_tensors="pt")["input_ids"]
    elif answer:
        whole = processor(text=f"{asked} {said}</s>", images=[image], return_tensors="pt")
        learned = torch.arange(whole["input_ids"].shape[1])[None] >= made["input_ids"].shape[1]
        made |= {name: whole[name] for name in ("input_ids", "attention_mask")}
        made["labels"] = torch.where(learned, made["input_ids"], -100)
    return made


def folder_is_pair(folder: str) -> bool:
    return bool(transformers.AutoConfig.from_pretrained(folder).text_config.is_encoder_decoder)


def task() -> Any:
    return vqa.Task(vqa.Options())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_the_loss_are_transformers_own(kind: str, folders: Any, pictures: list[Path]) -> None:
    folder = folders(kind)
    backbone, model = opened(folder), transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
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
            questions = made.get("qformer_input_ids", torch.zeros(1, 0))
            assert row.get("qformer_input_ids", []) == questions[0].tolist()
            taught = [token for token in made["labels"][0].tolist() if token != -100]
            mine = row.get("target_ids") or [
                token for token, said in zip(row["input_ids"], row["supervised"], strict=True) if said
            ]
            assert mine == taught
            expected.append(float(model(**made).loss) * len(taught))
        alone = [float(objective.loss(backbone, objective.collate([row])).total) for row in rows]
        together = float(objective.loss(backbone, objective.collate(rows)).total)
    assert alone == pytest.approx(expected, rel=1e-5)
    assert together == pytest.approx(sum(expected), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_transformers_own(kind: str, folders: Any, pictures: list[Path]) -> None:
    """In a batch, as the model's own ``generate`` on the processor's output for each alone."""
    folder = folders(kind)
    backbone = opened(folder)
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    told, pair = examples(pictures), folder_is_pair(folder)
    for beams in (1, 2):
        rows = [task().row(backbone, example, None, 1000) for example in told]
        found = generate(backbone, rows, max_new_tokens=5, num_beams=beams)
        for example, written in zip(told, found, strict=True):
            made = theirs(folder, example, answer=False)
            ids = model.generate(**made, max_new_tokens=5, num_beams=beams, do_sample=False, eos_token_id=1)
            ids = ids[0, 1 if pair else made["input_ids"].shape[1] :].tolist()
            assert written == (ids[: ids.index(1)] if 1 in ids else ids)


@pytest.mark.parametrize("kind", ["instructblip", "instructblip-t5"])
def test_what_looks_at_a_picture_reads_the_question_and_never_the_answer(
    kind: str, folders: Any, pictures: list[Path]
) -> None:
    """Another question to the Q-Former alone gives another loss; a long one is cut to its positions."""
    backbone = opened(folders(kind))
    objective = Objective(Options(), backbone, task().encoder(backbone, 1000, "error"))
    (row,) = objective.encode(examples(pictures)[0])
    (other,) = objective.encode(Example(Source("x", 0), text="the cat", targets=["dog"], images=[pictures[0]]))
    assert row["qformer_input_ids"] == other["qformer_input_ids"]
    asked = row | {"row": 0, "qformer_input_ids": [3, 40, 41, 4]}
    with torch.no_grad():
        losses = [float(objective.loss(backbone, objective.collate([one])).total) for one in (row | {"row": 0}, asked)]
    assert abs(losses[0] - losses[1]) > 1e-3
    long = task().row(backbone, Example(Source("x", 0), text="the cat " * 40, images=[pictures[0]]), None, 1000)
    assert len(long["qformer_input_ids"]) == backbone.model.config.qformer_config.max_position_embeddings == 24


@pytest.mark.parametrize("kind", ["blip-2", "blip-2-t5"])
def test_a_picture_is_never_cut_and_one_is_shown(kind: str, folders: Any, pictures: list[Path]) -> None:
    backbone = opened(folders(kind))
    row = backbone.row_of("<image>" + "the cat " * 20, "\n", "red", list(pictures[:1]), 20)
    assert len(row["input_ids"]) == 20
    assert row["input_ids"][:4] == [backbone.image_id] * 4
    assert row["full_length"] > 20
    assert len(row["target_ids"]) == 2 if "target_ids" in row else sum(row["supervised"]) == 2
    for source, some in (("<image> the <image>", pictures[:1]), ("<image><image>", pictures[:2]), ("the", [])):
        with pytest.raises(Refused) as refused:
            backbone.row_of(source, "", "red", list(some), 20)
        assert refused.value.findings[0].code == "data.picture-marks"


@pytest.mark.parametrize("kind", KINDS)
def test_parts_have_their_roles(kind: str, folders: Any) -> None:
    """Every parameter has one; an encoder-decoder's embedding is its encoder's."""
    backbone = opened(folders(kind))
    pair = backbone.encoder_decoder
    assert pair == kind.endswith("t5")
    assert {*backbone.roles} == {"vision", "projector", *(("encoder", "decoder") if pair else ("text",))}
    assert backbone.seams.head == ["language_model.lm_head"]
    held = backbone.roles["projector"].names
    assert {*held} == {"query_tokens", "qformer", "language_projection"}
    every = [
        [role for role, one in backbone.roles.items() if one.holds(name)] for name, _ in backbone.named_parameters()
    ]
    assert all(len(roles) == 1 for roles in every)
    if pair:
        assert backbone.roles["encoder"].holds("language_model.shared.weight")
        assert {*backbone.seams.stacks} == {"image", "encoder", "decoder"}
