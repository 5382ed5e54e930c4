"""Answers about pictures: what they are worth is what the model's own forward gives them, on any layout; a picture that
two answers share is read once; what would be learned wrongly is refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import families
import tiny
from luthier.engine.accumulate import loss_of
from luthier.evaluate.outputs import Reader
from luthier.models.joined.compose import compose
from luthier.models.joined.multimodal import MultimodalBackbone
from luthier.models.load import load
from luthier.models.vision.vision_language import VisionLanguageBackbone
from luthier.objectives import OBJECTIVES
from luthier.objectives.likelihood import supervised_tokens
from luthier.objectives.preference import REFERENCE
from luthier.runs.beside.scoring import Scorer
from luthier.runs.predictor import Predictor
from luthier.tasks import prefer, reward
from luthier.types import Example, Features, Refused, Source

FUSES: dict[str, Any] = {
    "projection": ("projection", {}), "early": ("concatenation", {"when": "early"}), "gates": ("cross_attention", {}),
}  # fmt: skip
PRETRAINED = ("llava", "idefics3", "gemma3", "smolvlm", "qwen2_5_vl")
TEXTS = [
    ("the cat and the", "old dog", "small green bird house"), ("a river", "new", "blue tree"), ("the", "red", "old"),
]  # fmt: skip
MARKS = ["<image>", "<image> and <image>", ""]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [tiny.save_picture(folder / f"{at}.png", tiny.WORDS[at], size=32, seed=at) for at in range(3)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[..., str]) -> Callable[[str], str]:
    made: dict[str, str] = {}

    def folder(name: str) -> str:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            if name in FUSES:
                sees = tiny.save_image_model("vit", place / "vit")
                compose(sees, tiny_folder("llama"), *FUSES[name], place / "made")
                made[name] = str(place / "made")
            else:
                save = tiny.save_vision_language_model if name in tiny.VISION_LANGUAGE else families.save
                made[name] = save(name, place)
        return made[name]

    return folder


def opened(folder: str, packing: str = "auto", needs: str = "token_logits", **config: Any) -> Any:
    backbone = load("seer", folder, needs, config=config)
    backbone.model.eval()
    backbone.dropout = False
    backbone.choose_layout(packing)
    if isinstance(backbone, MultimodalBackbone):
        with torch.no_grad():  # gates that are shut let no picture through
            for name, parameter in backbone.model.named_parameters():
                if "gate" in name:
                    parameter.fill_(0.7)
    return backbone


def examples(pictures: Sequence[Path]) -> list[Example]:
    found, shown = [], 0
    for at, ((asked, *sides), marks) in enumerate(zip(TEXTS, MARKS, strict=True)):
        count = marks.count("<image>")
        turns = [{"role": "user", "content": f"{marks} {asked}"}]
        chosen, rejected = ([{"role": "assistant", "content": side}] for side in sides)
        own = list(pictures[shown : shown + count])
        made = Example(Source("rows", at + 1), messages=turns, images=own or None, chosen=chosen, rejected=rejected)
        found.append(made)
        shown += count
    return found


def rows_of(backbone: Any, pictures: Sequence[Path], objective: Any, task: Any = prefer) -> list[Features]:
    objective.encoder = task.Task(task.Options()).encoder(backbone, 512, "error")
    return [row | {"row": at} for at, e in enumerate(examples(pictures)) for row in objective.encode(e)]


def own_inputs(backbone: Any, row: Features) -> Iterator[dict[str, Any]]:
    """What the family's own forward takes for each sequence of a row."""
    start = 0
    for length in row["lengths"]:
        inputs: dict[str, Any] = {"input_ids": torch.tensor([row["input_ids"][start : start + length]])}
        start += length
        inputs |= backbone.row_media([{"pictures": row.get("pictures", [])}]) if row.get("pictures") else {}
        types = backbone.types if isinstance(backbone, VisionLanguageBackbone) else ()
        inputs |= {name: (inputs["input_ids"] == backbone.image_id).long() for name in types}
        yield inputs


def own_forward(backbone: Any, row: Features) -> list[list[float]]:
    """log π of every answer's tokens, by the whole model's own forward on one sequence at a time."""
    taught, told, start = row["supervised"], [], 0
    for length, inputs in zip(row["lengths"], own_inputs(backbone, row), strict=True):
        learned, start = taught[start : start + length], start + length
        (part,) = inputs["input_ids"].tolist()
        with torch.no_grad(), backbone.attention("sdpa"):
            logs_TV = F.log_softmax(backbone.model(**inputs).logits[0].float(), -1)
        told.append([float(logs_TV[at - 1, part[at]]) for at in range(1, length) if learned[at]])
    return told


def by_formula(name: str, sums: list[tuple[float, float]], counts: list[tuple[int, int]]) -> float:
    """The sum of losses of pairs at a reference of -1 a token, from the formulas of the papers."""
    total = torch.zeros(())
    for (a, b), (n, m) in zip(sums, counts, strict=True):
        first, second = torch.tensor(a), torch.tensor(b)
        if name == "dpo":
            total += -F.logsigmoid(0.1 * ((first + n) - (second + m)))
        elif name == "ipo":
            total += ((first + n) / n - (second + m) / m - 1 / (2 * 0.1)) ** 2
    return float(total)


@pytest.mark.parametrize("name", [*FUSES, *PRETRAINED])
def test_answers_are_worth_what_the_models_own_forward_gives_them(
    name: str, folders: Callable[[str], str], pictures: list[Path]
) -> None:
    """Two answers beside each other, of one picture, of two and of none, in every layout; and the loss of both."""
    for packing in ("auto", "off") if name in FUSES else ("auto",):
        backbone = opened(folders(name), packing)
        objective = OBJECTIVES.load("dpo").Objective(OBJECTIVES.load("dpo").Options(), backbone, None)
        rows = rows_of(backbone, pictures, objective)
        assert backbone.shares == (packing == "auto" and name in ("projection", "early"))
        with torch.no_grad():
            found = objective.reader.outputs(backbone, objective.reader.collate(rows))
        own = [own_forward(backbone, row) for row in rows]
        for logs_n, parts in zip(found, own, strict=True):
            torch.testing.assert_close(logs_n, torch.tensor([x for part in parts for x in part]), rtol=1e-4, atol=1e-4)
        counts = [(len(a), len(b)) for a, b in own]
        assert counts == [tuple(supervised_tokens(row)) for row in rows]
        for loss_name in ("dpo", "ipo"):
            module = OBJECTIVES.load(loss_name)
            judged = module.Objective(module.Options(), backbone, None)
            told = [row | {REFERENCE: [-1.0] * sum(n)} for row, n in zip(rows, counts, strict=True)]
            terms, _ = loss_of(backbone, judged, told, "fp32")
            expected = by_formula(loss_name, [(sum(a), sum(b)) for a, b in own], counts)
            assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", [*FUSES, "llava"])
def test_no_place_of_a_picture_is_supervised_and_none_is_cut(
    name: str, folders: Callable[[str], str], pictures: list[Path]
) -> None:
    backbone = opened(folders(name))
    objective = OBJECTIVES.load("dpo").Objective(OBJECTIVES.load("dpo").Options(), backbone, None)
    row = rows_of(backbone, pictures, objective)[1]
    each = len(backbone.places(row["pictures"][0]))
    at = [place for place, token in enumerate(row["input_ids"]) if token == backbone.image_id]
    assert len(at) == 2 * 2 * each
    assert not any(row["supervised"][place] for place in at)
    objective.encoder = prefer.Task(prefer.Options()).encoder(backbone, max(row["lengths"]) - 2, "truncate")
    (cut,) = objective.encode(examples(pictures)[1])
    assert cut["lengths"] == [min(length, max(row["lengths"]) - 2) for length in row["lengths"]]
    assert cut["input_ids"].count(backbone.image_id) == len(at)
    objective.encoder = prefer.Task(prefer.Options()).encoder(backbone, 2 * each + 3, "truncate")
    with pytest.raises(Refused) as refused:
        objective.encode(examples(pictures)[1])
    assert [one.code for one in refused.value.findings] == ["data.picture-room"]


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("name", FUSES)
def test_the_tower_reads_a_shared_picture_once(
    name: str, packing: str, folders: Callable[[str], str], pictures: list[Path]
) -> None:
    """Three pictures of two rows with two answers each; the gradient is that of reading them for each answer."""
    backbone = opened(folders(name), packing)
    module = OBJECTIVES.load("simpo")
    objective = module.Objective(module.Options(), backbone, None)
    rows, seen = rows_of(backbone, pictures, objective), []
    handle = backbone.trunk.image.register_forward_pre_hook(
        lambda tower, args, given: seen.append(len(given["pixel_values"])), with_kwargs=True
    )
    terms, batch = loss_of(backbone, objective, rows, "fp32")
    handle.remove()
    assert seen == [3]
    names = [n for n, p in backbone.model.named_parameters() if n.startswith("model.image.")]
    once = torch.autograd.grad(terms.total, [backbone.model.get_parameter(n) for n in names], allow_unused=True)
    if "picture_of" not in batch.tensors:  # the prompt is computed once, and its pictures with it
        assert packing == "auto"
        return
    batch.tensors["pixel_values"] = batch["pixel_values"][batch.tensors.pop("picture_of")]
    each = objective.loss(backbone, batch).total
    torch.testing.assert_close(each, terms.total)
    twice = torch.autograd.grad(each, [backbone.model.get_parameter(n) for n in names], allow_unused=True)
    for one, other in zip(once, twice, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_an_unrelated_answer_is_of_another_picture_too(folders: Callable[[str], str], pictures: list[Path]) -> None:
    """KTO: the same question about another picture is another prompt."""
    backbone = opened(folders("projection"))
    module = OBJECTIVES.load("kto")
    objective = module.Objective(module.Options(), backbone, None)
    objective.encoder = prefer.Task(prefer.Options()).encoder(backbone, 512, "error")
    turns = [{"role": "user", "content": "<image> the cat"}]
    several = [
        Example(Source("rows", at), messages=turns, images=[picture], chosen=[{"role": "assistant", "content": said}])
        for at, (picture, said) in enumerate(((pictures[0], "red"), (pictures[0], "old"), (pictures[1], "green")))
    ]
    rows = [row for example in several for row in objective.encode(example)]
    completed = objective.complete(rows)
    assert [len(row["lengths"]) for row in completed] == [2, 2, 2]
    others = [row["input_ids"][row["lengths"][0] :] for row in completed]
    word = {name: backbone.tokenizer(name)["input_ids"][-1] for name in ("red", "old", "green")}
    assert [next(name for name, token in word.items() if token in ids) for ids in others] == ["green", "green", "red"]
    batch = objective.collate([row | {"row": at} for at, row in enumerate(completed)])
    assert len(batch["pixel_values"]) == len(batch["other.pixel_values"]) == 3


@pytest.mark.parametrize(
    ("name", "packing"),
    [*((name, packing) for name in FUSES for packing in ("auto", "off")), *((name, "auto") for name in PRETRAINED)],
)
def test_a_score_is_the_head_on_the_last_token(
    name: str, packing: str, folders: Callable[[str], str], pictures: list[Path]
) -> None:
    """Of each answer as one sequence, by the model's own trunk; and the loss of Bradley and Terry."""
    backbone = opened(folders(name), packing, "sequence_logits", num_labels=1, problem_type="regression")
    assert backbone.reads == "last"
    module = OBJECTIVES.load("bradley_terry")
    objective = module.Objective(module.Options(centering=0.0), backbone, None)
    rows = rows_of(backbone, pictures, objective, reward)
    head = dict(backbone.model.named_children())["classifier" if name in FUSES else "score"]
    expected = []
    for row in rows:
        for inputs in own_inputs(backbone, row):
            more = {"attention_mask": torch.ones_like(inputs["input_ids"])} if name in FUSES else {}
            with torch.no_grad(), backbone.attention("sdpa"):
                last_D = backbone.model.base_model(**inputs, **more).last_hidden_state[0, -1]
                expected.append(float(head(last_D)))
    terms, batch = loss_of(backbone, objective, rows, "fp32")
    with torch.no_grad():
        found_S = objective.scores(backbone, batch)
    torch.testing.assert_close(found_S, torch.tensor(expected), rtol=1e-4, atol=1e-4)
    scores_K2 = torch.tensor(expected).view(-1, 2)
    by_hand = -F.logsigmoid(scores_K2[:, 0] - scores_K2[:, 1]).sum()
    assert float(terms.total.detach()) == pytest.approx(float(by_hand), rel=1e-4)


@pytest.mark.parametrize("name", [*PRETRAINED, "old llava"])
def test_a_head_stands_on_the_weights_of_the_model_that_writes(
    name: str, folders: Callable[[str], str], tmp_path: Path
) -> None:
    """Nothing but the head is new; also of a folder whose tensors are called as LLaVA's first ones were."""
    folder = folders(name.removeprefix("old "))
    if name.startswith("old"):
        shutil.copytree(folder, tmp_path / "old")
        folder, file = str(tmp_path / "old"), tmp_path / "old/model.safetensors"
        held = load_file(file)
        called = [(name.removeprefix("model."), tensor) for name, tensor in held.items()]
        called = [(re.sub("^language_model", "language_model.model", name), tensor) for name, tensor in called]
        save_file({re.sub("^lm_head", "language_model.lm_head", name): t for name, t in called}, file, {"format": "pt"})
    scores = opened(folder, "auto", "sequence_logits", num_labels=1, problem_type="regression")
    writes = opened(folders(name.removeprefix("old ")))
    assert scores.fresh == {"score.weight"}
    theirs, ours = (dict(backbone.model.base_model.named_parameters()) for backbone in (writes, scores))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(parameter, ours[name]) for name, parameter in theirs.items())


def test_a_reward_model_of_pictures_rewards_what_is_written_about_them(
    folders: Callable[[str], str], pictures: list[Path]
) -> None:
    """As `reinforce` asks it: a prompt, an answer and the pictures of its row, which make the score."""
    backbone = opened(folders("projection"), "auto", "sequence_logits", num_labels=1, problem_type="regression")
    module, task = OBJECTIVES.load("bradley_terry"), reward.Task(reward.Options())
    objective = module.Objective(module.Options(), backbone, task.encoder(backbone, 512, "error"))
    scorer = Scorer(lambda: Predictor(task, backbone, objective, Reader(backbone, 512)))
    prompt = [{"role": "user", "content": "<image> the cat"}]
    shown = [[pictures[0]], [pictures[1]], [pictures[0]]]
    scores = scorer([prompt] * 3, ["red", "red", "red"], [""] * 3, shown)
    assert scores[0] == pytest.approx(scores[2])
    assert scores[0] != pytest.approx(scores[1])
    asked = [task.parse({"prompt": "<image> the cat", "completion": "red", "image": str(pictures[0])})]
    assert task.answer(scorer.predictor, asked)[0]["score"] == pytest.approx(scores[0])
