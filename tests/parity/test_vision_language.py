"""Conversations with pictures, for pretrained models that read both: rows, loss and answers are transformers' own.

Each model is built small from its config, and opened by its own processor and class beside ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import families
import tiny
from luthier.evaluate.generate import generate
from luthier.models.load import load
from luthier.models.vision.vision_language import VisionLanguageBackbone
from luthier.objectives.next_token import Objective, Options
from luthier.tasks.chat import Options as ChatOptions
from luthier.tasks.chat import Task
from luthier.types import Example, Source

KINDS = (*tiny.VISION_LANGUAGE, *families.FILMS)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    save = families.save if kind in families.FILMS else tiny.save_vision_language_model
    return save(kind, tmp_path_factory.mktemp(kind))


@pytest.fixture(scope="module")
def processor(kind: str, folder: str) -> Any:
    return families.processor(kind, folder)


@pytest.fixture
def backbone(folder: str) -> VisionLanguageBackbone:
    return families.opened(folder, VisionLanguageBackbone)


def talks(pictures: list[Path]) -> list[Example]:
    """Two pictures in one turn, one in each of two turns, and none."""
    turns = [
        [("user", "<image><image> the cat"), ("assistant", "red")],
        [("user", "small <image> house"), ("assistant", "blue"), ("user", "and <image>"), ("assistant", "green tree")],
        [("user", "old river"), ("assistant", "new")],
    ]
    shown = [pictures[:2], [pictures[2], pictures[0]], None]
    return [
        Example(Source("x", at), messages=[{"role": who, "content": says} for who, says in some], images=images)  # type: ignore[arg-type]
        for at, (some, images) in enumerate(zip(turns, shown, strict=True))
    ]


def theirs(processor: Any, example: Example, *, prompt: bool = False) -> dict[str, torch.Tensor]:
    """What transformers' processor makes of the same conversation, given as parts."""
    from PIL import Image

    messages = []
    for turn in (example.messages or [])[: -1 if prompt else None]:
        parts: list[dict[str, str]] = []
        for at, text in enumerate(turn["content"].split("<image>")):
            parts += [{"type": "image"}] if at else []
            parts += [{"type": "text", "text": text}] if text else []
        messages.append({"role": turn["role"], "content": parts})
    text = processor.tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
    images = [Image.open(one).convert("RGB") for one in example.images or []]  # type: ignore[arg-type]
    return dict(processor(text=text, images=images or None, return_tensors="pt"))


def test_rows_are_the_processors(
    backbone: VisionLanguageBackbone, processor: Any, folder: str, pictures: list[Path]
) -> None:
    """Ids and tensors; supervised are the answers with the end of their turns, and no picture's token."""
    encode = Task(ChatOptions()).encoder(backbone, 1000, "error")
    for example in talks(pictures):
        (row,) = encode(example)
        made = theirs(processor, example)
        assert row["input_ids"] == made["input_ids"][0].tolist()
        for name, tensor in backbone.row_media([row]).items():
            assert torch.equal(tensor.reshape(made[name].shape), made[name])
        told = backbone.tokenizer.decode(
            [token for token, said in zip(row["input_ids"], row["supervised"], strict=True) if said]
        )
        answers = [turn["content"] for turn in example.messages or [] if turn["role"] == "assistant"]
        assert told.replace("\n", "") == "".join(f"{one}<|im_end|>" for one in answers)


def test_the_loss_is_transformers_own(
    backbone: VisionLanguageBackbone, processor: Any, folder: str, pictures: list[Path]
) -> None:
    """All rows together and each alone give the sum of what the model's own forward gives for its labels."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    task = Task(ChatOptions())
    objective = Objective(Options(), backbone, task.encoder(backbone, 1000, "error"))
    rows = [row | {"row": at} for at, one in enumerate(talks(pictures)) for row in objective.encode(one)]
    expected = []
    with torch.no_grad():
        for example, row in zip(talks(pictures), rows, strict=True):
            made = theirs(processor, example)
            if not backbone.types or backbone.types[0] in made:
                pass
            else:  # a processor that makes them does so for its own model alone
                made["token_type_ids"] = (made["input_ids"] == backbone.pictures.image_id).long()
            labels = torch.where(torch.tensor([row["supervised"]]), made["input_ids"], -100)
            expected.append(float(model(**made, labels=labels).loss) * sum(row["supervised"]))
        alone = [float(objective.loss(backbone, objective.collate([row])).total) for row in rows]
        together = float(objective.loss(backbone, objective.collate(rows)).total)
    assert alone == pytest.approx(expected, rel=1e-5)
    assert together == pytest.approx(sum(expected), rel=1e-5)


def test_answers_are_transformers_own(
    backbone: VisionLanguageBackbone, processor: Any, folder: str, pictures: list[Path]
) -> None:
    """In a batch, as the model's own ``generate`` on the processor's output for each alone."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    examples = talks(pictures)
    prompts = [Task(ChatOptions()).prompt(type("Ask", (), {"backbone": backbone})(), one) for one in examples]  # type: ignore[arg-type]
    found = generate(backbone, prompts, max_new_tokens=5)
    for example, written in zip(examples, found, strict=True):
        made = theirs(processor, example, prompt=True)
        ids = model.generate(**made, max_new_tokens=5, do_sample=False)[0, made["input_ids"].shape[1] :].tolist()
        assert written == (ids[: ids.index(1)] if 1 in ids else ids)


def test_towers_are_found_by_their_configs(backbone: VisionLanguageBackbone) -> None:
    """Seams of both towers, each block in the one that it is of; the head outside."""
    seams = backbone.seams
    assert seams.stacks == ["image"] * tiny.LAYERS + ["text"] * tiny.LAYERS
    assert seams.head == ["lm_head"]
    assert {linear.stack for linear in seams.linears} == {"image", "text"}


def test_a_processor_that_lays_pictures_elsewhere_is_refused(tmp_path: Path) -> None:
    from luthier.models.vision.processed import ProcessedPictures
    from luthier.types import Refused

    words = tiny.tokenizer(encoder=False)
    words.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)

    class Before:
        image_token, tokenizer = "<image>", words

        def __call__(self, text: str, **more: Any) -> dict[str, Any]:
            ids = words(text.replace("<image>", ""))["input_ids"]
            return {"input_ids": [[words.convert_tokens_to_ids("<image>"), *ids]]}

    with pytest.raises(Refused) as refused:
        ProcessedPictures(Before(), image_id=words.convert_tokens_to_ids("<image>"))
    assert refused.value.findings[0].code == "model.processor"


def test_a_processor_that_needs_more_than_is_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.models.vision.processors import open_processor
    from luthier.types import Refused

    def needs(*_: Any, **__: Any) -> None:
        raise ImportError("XProcessor requires the Torchvision library but it was not found")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", needs)
    with pytest.raises(Refused) as refused:
        open_processor("x", tiny.tokenizer(encoder=False), transformers.LlavaConfig())
    (finding,) = refused.value.findings
    assert finding.code == "model.processor"
    assert "Torchvision" in finding.what


@pytest.mark.parametrize("told", ["video_preprocessor_config.json", "processor_config.json"])
def test_what_a_folder_says_of_films_is_kept(told: str, tmp_path: Path) -> None:
    """For whoever opens a run's model with what films need: under transformers' own name for it."""
    model, films = Path(families.save("qwen2_vl", tmp_path / "model")), {"patch_size": 8, "fps": 3}
    if told.startswith("processor"):
        films = {"video_processor": films, "processor_class": "Qwen2VLProcessor"}
    (model / told).write_text(json.dumps(films))
    load("vlm", str(model), "token_logits").save_readers(tmp_path / "kept")
    kept = json.loads((tmp_path / "kept/processor_config.json").read_text())
    assert kept["processor_class"] == "Qwen2VLProcessor"
    assert kept["video_processor"]["fps"] == 3
    assert kept["image_processor"]["patch_size"] == 8
