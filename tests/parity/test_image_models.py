"""Models of pictures, and composed ones: transformers' own numbers, in any layout and after saving."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import tiny
from luthier.data.media.pictures import decode
from luthier.methods import METHODS
from luthier.models.joined.compose import compose
from luthier.models.joined.composed import ComposedForSequenceClassification
from luthier.models.load import load
from luthier.objectives.classification import Objective, Options
from luthier.types import Batch, Features, Refused

LABELS = {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
FUSIONS = [
    ("projection", {}), ("projection", {"tokens": 3}), ("projection", {"tokens": 2, "resample": True}),
    ("concatenation", {}), ("concatenation", {"when": "early"}), ("cross_attention", {}),
    ("modulation", {}), ("modulation", {"layers": 1}),
]  # fmt: skip


@pytest.mark.parametrize("kind", [*tiny.IMAGE_MODELS, *tiny.DUAL_MODELS])
def test_logits_loss_and_gradients_are_transformers_own(kind: str, pictures: list[Path], tmp_path: Path) -> None:
    """Of one that compares pictures with texts: of its image encoder with transformers' classifier on it."""
    save = tiny.save_dual_model if kind in tiny.DUAL_MODELS else tiny.save_image_model
    path = save(kind, tmp_path)
    backbone = load(kind, path, "sequence_logits", config=LABELS)
    backbone.model.eval()
    objective = Objective(Options(), backbone, lambda example: [])  # type: ignore[arg-type]
    rows: list[Features] = [
        backbone.picture_row([one], None, None) | {"row": i, "target": i % 3, "weight": 1.0}
        for i, one in enumerate(pictures)
    ]
    batch = objective.collate(rows)
    processor = transformers.AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
    pixels = processor([decode(one)[0] for one in pictures], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], torch.as_tensor(pixels))
    torch.manual_seed(0)  # a new head's draws
    peer = transformers.AutoModelForImageClassification.from_pretrained(path, **LABELS, ignore_mismatched_sizes=True)
    theirs = peer.eval()(pixel_values=pixels, labels=torch.tensor([0, 1, 2, 0]))
    theirs.loss.backward()
    with torch.no_grad():
        ours = torch.tensor(objective.outputs(backbone, batch))
    terms = objective.loss(backbone, batch)
    (terms.total / terms.count).backward()
    torch.testing.assert_close(ours, theirs.logits, atol=1e-5, rtol=1e-5)
    assert float(terms.total.detach()) / terms.count == pytest.approx(float(theirs.loss.detach()), rel=1e-5)
    wanted = {name: p.grad for name, p in peer.named_parameters()}
    for name, parameter in backbone.model.named_parameters():
        if wanted[name] is None:
            assert parameter.grad is None, name
        else:
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("fuse", "options"), FUSIONS)
def test_a_composed_model_is_the_same_alone_in_a_batch_and_saved(
    fuse: str, options: dict, pictures: list[Path], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Rows with two, one and no pictures: each alone equals all together, padded or packed, and after save and load."""
    compose(tiny.save_image_model("vit", tmp_path / "image"), tiny_folder("bert"), fuse, options, tmp_path / "both")
    backbone = load("both", str(tmp_path / "both"), "sequence_logits", config=LABELS)
    backbone.model.eval()
    asked = [(pictures[:2], "red cat"), (pictures[2:3], "small old house and tree"), ([], "dog")]
    rows: list[Features] = [
        backbone.picture_row(some, text, None) | {"row": i, "target": None, "weight": 1.0}
        for i, (some, text) in enumerate(asked)
    ]
    objective = Objective(Options(), backbone, lambda example: [])  # type: ignore[arg-type]

    def outputs(some: list[Features]) -> torch.Tensor:
        with torch.no_grad():
            return torch.tensor(objective.outputs(backbone, objective.collate(some)))

    together = outputs(rows)
    torch.testing.assert_close(together, torch.cat([outputs([row]) for row in rows]), atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3
    backbone.choose_layout("auto")
    assert backbone.layout == ("packed" if backbone.in_row else "padded")
    torch.testing.assert_close(outputs(rows), together, atol=1e-5, rtol=1e-4)
    backbone.set_attention("sdpa")
    backbone.model.save_pretrained(tmp_path / "saved")
    again = ComposedForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    backbone.layout = "padded"
    given = {k: v for k, v in backbone.lay_out(rows).items() if k not in ("starts", "lengths")}
    with torch.no_grad():
        torch.testing.assert_close(again(**given).logits, together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("fuse", "options"), FUSIONS)
def test_the_picture_decides(
    fuse: str, options: dict, pictures: list[Path], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Another picture gives other logits, and a gradient reaches both towers and what joins them."""
    compose(tiny.save_image_model("vit", tmp_path / "image"), tiny_folder("bert"), fuse, options, tmp_path / "both")
    backbone = load("both", str(tmp_path / "both"), "sequence_logits", config=LABELS)
    objective = Objective(Options(), backbone, lambda example: [])  # type: ignore[arg-type]
    rows: list[Features] = [
        backbone.picture_row([one], "red cat", None) | {"row": i, "target": i, "weight": 1.0}
        for i, one in enumerate(pictures[:2])
    ]
    backbone.model.eval()
    first, second = objective.outputs(backbone, objective.collate(rows))
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) > 1e-4
    objective.loss(backbone, objective.collate(rows)).total.backward()
    for part in ("image", "text", "fusion"):
        named = list(backbone.trunk.get_submodule(part).named_parameters())
        reached = [name for name, p in named if p.grad is not None and p.grad.abs().sum() > 0]
        assert len(reached) > len(named) / 2, (part, reached)


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_virtual_tokens_among_patches_are_those_of_the_paper(kind: str, pictures: list[Path], tmp_path: Path) -> None:
    """[class, P, patches] through transformers' own blocks (Jia et al. 2022); the head reads the rest."""
    save = tiny.save_dual_model if kind in tiny.DUAL_MODELS else tiny.save_image_model
    backbone = load(kind, save(kind, tmp_path), "sequence_logits", config=LABELS)
    model, method = backbone.model.eval(), METHODS.load("prompt")
    batch = Batch(backbone.lay_out([backbone.picture_row([one], None, None) for one in pictures]), [0, 1, 2, 3])
    pixels = batch["pixel_values"]
    with torch.no_grad():
        plain = model(pixel_values=pixels).logits
        adaptation = method.adapt(backbone, method.Options(num_virtual_tokens=3))
        prompt = next(p for name, p in adaptation.parameters.items() if name.endswith("soft_prompt.embedding"))
        trunk = model.vit if kind == "vit" else model.vision_model
        ours = backbone.sequence_logits(backbone.hidden(batch), batch)
        with backbone.without_prompt():
            torch.testing.assert_close(model(pixel_values=pixels).logits, plain)
            states = trunk.embeddings(pixels) if kind == "vit" else trunk.pre_layrnorm(trunk.embeddings(pixels))
            states = torch.cat([states[:, :1], prompt.expand(len(states), -1, -1), states[:, 1:]], 1)
            for block in trunk.layers if kind == "vit" else trunk.encoder.layers:
                states = block(states) if kind == "vit" else block(states, attention_mask=None)
            pooled = trunk.layernorm(states)[:, 0] if kind == "vit" else states[:, 4:].mean(1)
            theirs = model.classifier(pooled)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (ours - plain).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["swin", "convnext"])
def test_virtual_tokens_are_refused_where_blocks_read_windows(kind: str, tmp_path: Path) -> None:
    backbone = load(kind, tiny.save_image_model(kind, tmp_path), "sequence_logits", config=LABELS)
    method = METHODS.load("prompt")
    with pytest.raises(Refused, match="do not attend to all places"):
        method.adapt(backbone, method.Options())
    batch = Batch({"pixel_values": backbone.pictures.blank}, [0])
    assert torch.isfinite(backbone.hidden(batch)).all(), "it is left as it was"


@pytest.mark.parametrize(
    ("kind", "needs", "code"),
    [
        ("siglip2", "sequence_logits", "model.processor"), ("siglip2", "vectors", "model.processor"),
        ("chinese_clip", "sequence_logits", "model.no-hidden"), ("blip", "hidden", "model.no-hidden"),
    ],
)  # fmt: skip
def test_what_is_no_classifier_of_pictures_of_one_size_is_refused(
    kind: str, needs: str, code: str, tmp_path: Path
) -> None:
    """NaFlex, and models whose image encoder transformers puts no classifier on: told before weights are read."""
    transformers.AutoConfig.for_model(kind).save_pretrained(tmp_path)
    tiny.tokenizer(encoder=True).save_pretrained(tmp_path)
    processor = {"image_processor_type": "Siglip2ImageProcessor" if kind == "siglip2" else "CLIPImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    with pytest.raises(Refused) as refused:
        load(kind, str(tmp_path), needs)
    assert [finding.code for finding in refused.value.findings] == [code]


def test_an_image_encoder_that_does_not_open_by_itself_is_read_in_its_classifier(
    pictures: list[Path], tmp_path: Path
) -> None:
    """MetaCLIP 2, for a linear probe: the tower's own hidden states, and no head that would train."""
    tower = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    text, vision = tower | {"vocab_size": 64}, tower | {"image_size": tiny.SIDE, "patch_size": 8}
    config = transformers.AutoConfig.for_model("metaclip_2", text_config=text, vision_config=vision)
    peer = transformers.AutoModel.from_config(config).eval()
    peer.save_pretrained(tmp_path)
    transformers.CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(tmp_path)
    backbone = load("metaclip_2", str(tmp_path), "hidden", config=LABELS)
    batch = Batch(backbone.lay_out([backbone.picture_row([one], None, None) for one in pictures]), [0, 1, 2, 3])
    with torch.no_grad():
        theirs = peer.vision_model(pixel_values=batch["pixel_values"]).last_hidden_state
        torch.testing.assert_close(backbone.hidden(batch), theirs.flatten(0, 1), atol=1e-6, rtol=1e-6)
    assert backbone.head_parameters() == {}


@pytest.mark.parametrize("kind", tiny.DUAL_MODELS)
def test_an_image_encoder_of_a_model_that_compares_is_transformers_own(
    kind: str, pictures: list[Path], tmp_path: Path
) -> None:
    """Its picture tower alone, where vectors of pictures are all that is asked for: a linear probe."""
    path = tiny.save_dual_model(kind, tmp_path)
    backbone = load(kind, path, "hidden", config=LABELS)
    assert backbone.fresh == set()
    rows: list[Features] = [backbone.picture_row([one], None, None) | {"row": i} for i, one in enumerate(pictures)]
    batch = backbone.lay_out(rows)
    peer = transformers.AutoModel.from_pretrained(path).vision_model.eval()
    backbone.model.eval()
    with torch.no_grad():
        theirs = peer(pixel_values=batch["pixel_values"]).last_hidden_state
        ours = backbone.hidden(Batch(batch, list(range(len(rows)))))
    torch.testing.assert_close(ours, theirs.flatten(0, 1), atol=1e-6, rtol=1e-6)
