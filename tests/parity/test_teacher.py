"""Distillation against torch's kl_div, TRL's GKD and the plain way: whole logits of both models, a row at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import Tensor

import luthier
import tiny
from luthier.methods import METHODS
from luthier.models.backbone import Backbone
from luthier.models.frozen import Frozen
from luthier.objectives import chunked
from luthier.objectives.distill import LOGITS, Classes, Objective, Options
from luthier.objectives.divergence import divergence
from luthier.runs.beside.teaching import read

Opened = Callable[..., Backbone]
RECORDED = json.loads((Path(__file__).parent / "gkd" / "fixtures.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_forward_and_reverse_are_torchs_kl_div(temperature: float) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (4 * torch.randn(6, 9, generator=draw) for _ in range(2))
    q, p = (F.log_softmax(z / temperature, -1) for z in (student, teacher))
    for kind, first, second in (("forward", q, p), ("reverse", p, q)):
        expected = temperature**2 * F.kl_div(first, second, reduction="none", log_target=True).sum(-1)
        found = divergence(student, teacher, kind, temperature=temperature)  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "case", RECORDED["cases"], ids=lambda case: f"{case['kind']}-{case['beta']}-{case['temperature']}"
)
def test_value_and_gradient_are_those_of_gkd(case: dict[str, Any]) -> None:
    """TRL leaves T² out."""
    student = torch.tensor(RECORDED["student"], requires_grad=True)
    teacher = torch.tensor(RECORDED["teacher"])
    scale = case["temperature"] ** 2
    beta = case["beta"] if case["kind"] == "jsd" else 0.5
    found = divergence(student, teacher, case["kind"], temperature=case["temperature"], beta=beta).sum()
    assert found.item() / scale == pytest.approx(case["loss"], rel=1e-5)
    (gradient,) = torch.autograd.grad(found, student)
    torch.testing.assert_close(gradient / scale, torch.tensor(case["gradient"]), rtol=1e-4, atol=1e-6)


def frozen(backbone: Backbone) -> Frozen:
    return Frozen(backbone, "teacher", "weights")


def plain(student: Backbone, teacher: Backbone, rows: list[Any], options: Options) -> Tensor:
    """Σ w [α T² KL + (1 - α) cross-entropy] over supervised tokens or rows, by torch alone."""
    total, T = torch.zeros(()), options.temperature
    for row in rows:
        of = [reference.alone(one, row["input_ids"], row.get("target_ids")) for one in (student, teacher)]
        logits, theirs = of[0], of[1].detach()
        if student.needs == "sequence_logits":
            logits, theirs, targets = logits[None], theirs[None], torch.tensor([row["target"]])
        elif "target_ids" in row:
            targets = torch.tensor(row["target_ids"])
        else:
            at = [t for t, supervised in enumerate(row["supervised"]) if supervised]
            logits, theirs = logits[[t - 1 for t in at]], theirs[[t - 1 for t in at]]
            targets = torch.tensor([row["input_ids"][t] for t in at])
        width = min(logits.shape[-1], theirs.shape[-1])
        q, p = (F.log_softmax(z[:, :width] / T, -1) for z in (logits, theirs))
        first, second = (q, p) if options.compares == "forward" else (p, q)
        apart = T**2 * F.kl_div(first, second, reduction="sum", log_target=True)
        cross = F.cross_entropy(logits, targets, reduction="sum")
        total = total + row["weight"] * (options.alpha * apart + (1 - options.alpha) * cross)
    return total


def assert_same(student: Backbone, teacher: Backbone, rows: list[Any], options: Options, kind: Any = Objective) -> None:
    objective = kind(options, student, lambda example: [])
    objective.teacher = frozen(teacher)
    expected = plain(student, teacher, rows, options)
    wanted = reference.gradients(student, expected)
    terms = objective.loss(student, objective.collate(rows))
    torch.testing.assert_close(terms.total.detach(), expected.detach(), rtol=1e-5, atol=1e-5)
    reference.assert_same_gradients(reference.gradients(student, terms.total), wanted)
    assert all(parameter.grad is None for parameter in teacher.model.parameters())


@pytest.mark.parametrize("chunk", [1, chunked.CHUNK])
@pytest.mark.parametrize("kind", ["forward", "reverse"])
@pytest.mark.parametrize(
    ("name", "packing", "theirs"), [("llama", "auto", "off"), ("llama", "off", "auto"), ("gemma2", "auto", "auto")]
)
def test_chunks_in_any_layout_are_the_plain_loss(
    name: str, packing: str, theirs: str, kind: str, chunk: int, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen positions at a time and all at once; teacher and student packed or padded, of two depths and widths."""
    monkeypatch.setattr(chunked, "CHUNK", chunk)
    student = opened(name, "token_logits", packing=packing)
    teacher = opened("llama", "token_logits", packing=theirs, seed=1, num_hidden_layers=3, hidden_size=48)
    rows = [row | {"supervised": [t > 0 for t in range(len(row["input_ids"]))]} for row in reference.random_rows(300)]
    assert sum(sum(row["supervised"]) for row in rows) > 2 * 16
    assert_same(student, teacher, rows, Options.model_validate({"divergence": kind, "alpha": 0.7}))


def test_a_padded_head_is_compared_in_the_ids_that_both_have(opened: Opened) -> None:
    student = opened("llama", "token_logits")
    width = student.model.get_output_embeddings().weight.shape[0]
    teacher = opened("llama", "token_logits", seed=1, vocab_size=width + 24)
    assert_same(student, teacher, reference.random_rows(300), Options(temperature=1.5))


def test_of_an_encoder_decoder(opened: Opened) -> None:
    student, teacher = opened("t5", "token_logits"), opened("t5", "token_logits", seed=1)
    rows = [row | {"target_ids": row["input_ids"][::-1]} for row in reference.random_rows(300)]
    assert_same(student, teacher, rows, Options())


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_of_classes_and_with_logits_computed_before(kind: str, opened: Opened) -> None:
    student, teacher = opened("bert", "sequence_logits"), opened("bert", "sequence_logits", seed=1, num_hidden_layers=3)
    rows = reference.random_rows(300)
    options = Options.model_validate({"divergence": kind})
    assert_same(student, teacher, rows, options, Classes)
    objective = Classes(options, student, lambda example: [])
    expected = plain(student, teacher, rows, options)
    known = [row | {LOGITS: reference.alone(teacher, row["input_ids"]).tolist()} for row in rows]
    found = objective.loss(student, objective.collate(known)).total
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-5, atol=1e-5)


def test_a_model_of_pictures_teaches_one_of_another_family(tmp_path: Path) -> None:
    """CLIP's image encoder, as a classifier, reads each picture by its own processor, of another size than the
    student's: transformers' own logits. The student learns from them, and its run tells how good the teacher is."""
    rows = [(tmp_path / f"{i}.png", ("red", "green")[i % 2]) for i in range(12)]
    for i, (path, colour) in enumerate(rows):
        tiny.save_picture(path, colour, seed=i)
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", [{"image": str(path), "label": name} for path, name in rows])
    known: dict[str, Any] = {"task": "classify", "data": {"train": data, "eval": 0.25}, "steps": 4, "final": "last"}
    big = tiny.save_dual_model("clip", tmp_path / "clip")
    teacher = luthier.tune(**known, model=big, method="full", out=str(tmp_path / "big"))
    small = tiny.save_image_model("resnet", tmp_path / "resnet")
    transformers.ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(small)
    given = known | {"model": small, "method": "full", "distill": {"teacher": str(teacher.folder)}}
    _, prepared = luthier.check(**given)
    assert prepared is not None
    final = teacher.folder / "final"
    peer = transformers.AutoModelForImageClassification.from_pretrained(final).eval()
    shown = [Image.open(example.images[0]) for example in prepared.train.examples]
    pixels = transformers.AutoImageProcessor.from_pretrained(final)(shown, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(read(prepared, prepared.train.rows)), peer(pixels).logits)
    run = luthier.tune(**given, out=str(tmp_path / "small"))
    assert run.result["teacher"]["metrics"]["accuracy"] == teacher.result["after"]["accuracy"]


def test_without_a_share_of_the_teacher_it_is_the_labels_loss(opened: Opened) -> None:
    student, rows = opened("llama", "token_logits"), reference.random_rows(300)
    objective: Any = Objective(Options(alpha=0), student, lambda example: [])
    objective.teacher = frozen(opened("llama", "token_logits", seed=1))
    found = objective.loss(student, objective.collate(rows))
    own = reference.objective(student)
    expected = own.loss(student, own.collate(rows))
    torch.testing.assert_close(found.total, expected.total)
    assert found.count == expected.count


@pytest.mark.parametrize("method", ["lora", "adapter", "prompt", "prefix"])
def test_the_model_without_its_method_teaches_as_a_copy_does(method: str, opened: Opened) -> None:
    """`base`: the same loss and the same gradients as with a second copy of the weights."""
    student, copy = opened("llama", "token_logits"), opened("llama", "token_logits")
    module = METHODS.load(method)
    adaptation = module.adapt(student, module.Options())
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adaptation.parameters.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    rows, found = reference.random_rows(300), []
    for parameter in student.model.parameters():
        parameter.requires_grad_(any(parameter is one for one in adaptation.parameters.values()))
    for teacher in (Frozen(student, "base", "", base=adaptation.base), frozen(copy)):  # type: ignore[arg-type]
        objective: Any = Objective(Options(), student, lambda example: [])
        objective.teacher = teacher
        terms = objective.loss(student, objective.collate(rows))
        gradients = torch.autograd.grad(terms.total, list(adaptation.parameters.values()), allow_unused=True)
        found.append((terms, gradients))
    (ours, first), (theirs, second) = found
    torch.testing.assert_close(ours.total, theirs.total)
    assert ours.report["divergence"][0] > 1e-3
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
