"""CLIP and SigLIP: transformers' own vectors, probabilities, losses and gradients; a composed pair saves whole.

Axes: K pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import luthier
import tiny
from luthier.data.media.pictures import decode
from luthier.methods import METHODS
from luthier.models.inserted import longer_mask
from luthier.models.joined.compose import compose
from luthier.models.joined.dual_encoder import ComposedDualEncoder
from luthier.models.load import load
from luthier.objectives.image_text import Objective, Options
from luthier.tasks import match
from luthier.types import INLINE, Example

CAPTIONS = ["the red house", "a small green tree and a river", "blue", "an old red cat and the dog"]


def opened(path: str, **options: Any) -> Objective:
    backbone = load("model", path, "vectors")
    backbone.model.eval()
    task = match.Task(match.Options())
    return Objective(Options(**options), backbone, task.encoder(backbone, 20, "truncate"))


def rows_of(objective: Objective, pictures: list[Path], captions: list[str]) -> list[dict[str, Any]]:
    examples = [Example(INLINE, images=[p], targets=[c]) for p, c in zip(pictures, captions, strict=True)]
    return [row | {"row": i} for i, example in enumerate(examples) for row in objective.encode(example)]


def inputs_of(path: str, kind: str, pictures: list[Path], captions: list[str]) -> dict[str, torch.Tensor]:
    """As transformers' processors make them; SigLIP's captions fill all positions, without a mask."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    padded = {"padding": "max_length", "max_length": 24} if kind == "siglip" else {"padding": True}
    text = tokenizer(captions, return_tensors="pt", **padded)
    pixels = processor([decode(one)[0] for one in pictures], return_tensors="pt")["pixel_values"]
    told = {"input_ids": text["input_ids"], "pixel_values": torch.as_tensor(pixels)}
    return told if kind == "siglip" else told | {"attention_mask": text["attention_mask"]}


@pytest.mark.parametrize("kind", tiny.DUAL_MODELS)
def test_loss_and_gradient_are_transformers_own(kind: str, pictures: list[Path], tmp_path: Path) -> None:
    path = tiny.save_dual_model(kind, tmp_path)
    objective = opened(path)
    assert objective.backbone.fixed == (24 if kind == "siglip" else 0)
    rows = rows_of(objective, pictures, CAPTIONS)
    model = objective.backbone.model
    terms = objective.coupled_loss(objective.vectors(objective.backbone, objective.collate(rows)), rows)
    (terms.total / terms.count).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    theirs = model(**inputs_of(path, kind, pictures, CAPTIONS), return_loss=True)
    theirs.loss.backward()
    assert float(terms.total.detach()) / terms.count == pytest.approx(float(theirs.loss.detach()), rel=1e-5)
    assert {"logit_scale"} <= ours.keys()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name not in ours), name
        if parameter.grad is not None:
            torch.testing.assert_close(
                ours[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n} {m}"
            )


@pytest.mark.parametrize("kind", tiny.DUAL_MODELS)
def test_a_context_among_the_words_is_coops(kind: str, pictures: list[Path], tmp_path: Path) -> None:
    """[start, P, words, end] through transformers' own blocks, one text at a time and causal where the tower is (Zhou
    et al. 2021): the same vectors as of all texts together, padded. Pictures keep theirs."""
    objective = opened(tiny.save_dual_model(kind, tmp_path))
    backbone: Any = objective.backbone
    method, model = METHODS.load("prompt"), backbone.model
    batch = objective.collate(rows_of(objective, pictures, CAPTIONS))
    with torch.no_grad():
        before = backbone.picture_vectors(batch), backbone.text_vectors(batch)
        with backbone.within("text"):
            adaptation = method.adapt(backbone, method.Options(num_virtual_tokens=3))
        assert set(adaptation.parameters) == {"text_model.soft_prompt.embedding"}
        (prompt,) = adaptation.parameters.values()
        ours, tower, theirs = backbone.text_vectors(batch), model.text_model, []
        torch.testing.assert_close(backbone.picture_vectors(batch), before[0])
        with backbone.without_prompt():
            torch.testing.assert_close(backbone.text_vectors(batch), before[1])
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                states = tower.embeddings(ids[None] if kind == "siglip" else ids[mask > 0][None])
                states = torch.cat([states[:, :1], prompt[None], states[:, 1:]], 1)
                hidden = torch.full((states.shape[1],) * 2, -torch.inf).triu(1) if kind == "clip" else None
                for block in tower.encoder.layers:
                    states = block(states, None if hidden is None else hidden[None, None])
                last = tower.final_layer_norm(states)[:, -1]
                theirs.append(model.text_projection(last) if kind == "clip" else tower.head(last))
    torch.testing.assert_close(ours, torch.cat(theirs), atol=1e-5, rtol=1e-5)
    assert (ours - before[1]).abs().max() > 1e-2


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_a_longer_mask(causal: bool, kind: torch.dtype) -> None:
    """Three places, the last one a pad, and two virtual ones after the first, which see it and, where causal, those
    before."""
    shown = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0]]).bool()
    shown = shown.tril() if causal else shown
    wanted = [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]],
        [[1, 1, 1, 1, 0]] * 5,
    ][not causal]
    mask = shown if kind == torch.bool else torch.where(shown, 0.0, torch.finfo(kind).min)
    found = longer_mask(mask[None, None], 2, causal=causal)[0, 0]
    assert found.dtype == kind
    assert (found if kind == torch.bool else found == 0).int().tolist() == wanted


def test_the_classic_example(pictures: list[Path], tmp_path: Path) -> None:
    """Two captions, one picture: the softmax of ``logits_per_image``, as on CLIP's model card."""
    path = tiny.save_dual_model("clip", tmp_path / "clip")
    rows = [{"image": str(p), "caption": c} for p, c in zip(pictures, CAPTIONS, strict=True)]
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    run = luthier.tune(
        task="match", model=path, data={"train": data, "eval": 0.0}, method="full", steps=2, learning_rate=1e-3,
        out=str(tmp_path / "runs"), name="run",
    )  # fmt: skip
    final = run.folder / "final"
    model = transformers.CLIPModel.from_pretrained(final)
    processor = transformers.CLIPProcessor(
        image_processor=transformers.AutoImageProcessor.from_pretrained(final),
        tokenizer=transformers.AutoTokenizer.from_pretrained(final),
    )
    texts = ["the red cat", "a blue tree by the river"]
    inputs = processor(text=texts, images=decode(pictures[0])[0], return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = model(**inputs).logits_per_image.softmax(dim=1)[0].tolist()
    (answer,) = luthier.load(run.folder).predict([{"image": str(pictures[0]), "texts": texts}])
    assert [answer["probabilities"][text] for text in texts] == pytest.approx(expected, abs=1e-6)
    assert abs(expected[0] - expected[1]) > 1e-3


def test_a_caption_in_a_batch_is_as_alone(pictures: list[Path], tmp_path: Path) -> None:
    """Padded beside longer ones, its picture beside others; a picture of two rows is computed once."""
    for kind in tiny.DUAL_MODELS:
        objective = opened(tiny.save_dual_model(kind, tmp_path / kind))
        rows = rows_of(objective, [pictures[0], pictures[1], pictures[0]], CAPTIONS[:3])
        batch = objective.collate(rows)
        assert len(batch["pixel_values"]) == 2
        with torch.no_grad():
            together = objective.vectors(objective.backbone, batch)
            alone = [objective.vectors(objective.backbone, objective.collate([row])) for row in rows]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together[0], together[4])


def test_a_class_is_the_mean_of_its_templates(pictures: list[Path], tmp_path: Path) -> None:
    """CLIP's prompt ensemble: vectors of length 1, their mean, at length 1 again."""
    path = tiny.save_dual_model("clip", tmp_path)
    objective = opened(path)
    templates = ["the {}", "an old {} and a {}."]
    objective.encoder = match.Task(match.Options(templates=templates)).encoder(objective.backbone, 20, "truncate")
    (row,) = objective.encode(Example(INLINE, images=[pictures[0]], label="cat"))
    with torch.no_grad():
        _, found = objective.vectors(objective.backbone, objective.collate([row | {"row": 0}]))
        ids = objective.backbone.tokenizer(["the cat", "an old cat and a cat."], return_tensors="pt", padding=True)
        each = objective.backbone.model.get_text_features(**ids).pooler_output
    each = each / each.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(found, each.mean(0) / each.mean(0).norm())


@pytest.mark.parametrize("towers", ["clip", "composed"])
def test_what_frozen_towers_make_is_computed_once(
    towers: str, pictures: list[Path], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    """The projections on what was kept give the vectors, and the gradient, of the whole model."""
    path = tiny.save_dual_model("clip", tmp_path / "clip")
    if towers == "composed":
        compose(
            tiny.save_image_model("vit", tmp_path / "vit"), tiny_folder("bert"), "similarity", {}, tmp_path / "made"
        )
        path = str(tmp_path / "made")
    objective = opened(path)
    rows = rows_of(objective, pictures, CAPTIONS)
    found = []
    for kept in (False, True):
        batch = objective.collate(rows)
        assert ("pixel_values" in batch.tensors) is not kept
        vectors = objective.vectors(objective.backbone, batch)
        objective.coupled_loss(vectors, rows).total.backward()
        head = objective.backbone.head_parameters()
        found.append((vectors.detach(), {name: p.grad.clone() for name, p in head.items() if p.grad is not None}))
        objective.backbone.model.zero_grad()
        objective.backbone.remember(rows, batch, {"vision", "text"}) if not kept else None
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for name, grad in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], grad, atol=1e-5, rtol=1e-4)


def test_a_composed_pair_saves_whole(pictures: list[Path], tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    vit = tiny.save_image_model("vit", tmp_path / "vit")
    compose(vit, tiny_folder("bert"), "similarity", {"width": 12}, tmp_path / "composed")
    objective = opened(str(tmp_path / "composed"))
    rows = rows_of(objective, pictures, CAPTIONS)
    batch = objective.collate(rows)
    with torch.no_grad():
        vectors = objective.vectors(objective.backbone, batch)
        objective.backbone.model.save_pretrained(tmp_path / "again")
        again = ComposedDualEncoder.from_pretrained(tmp_path / "again").eval()
        found = again(**{name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")})
    assert vectors.shape == (8, 12)
    torch.testing.assert_close(found.image_embeds, vectors[::2], atol=1e-6, rtol=1e-5)
    expected = (vectors[::2] @ vectors[1::2].T) / 0.07
    torch.testing.assert_close(found.logits_per_image, expected, atol=1e-4, rtol=1e-4)
