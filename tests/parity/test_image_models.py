"""Models of pictures, and composed ones: transformers' own numbers, in any layout and after saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import tiny
from luthier.data.pictures import decode
from luthier.models.compose import compose
from luthier.models.composed import ComposedForSequenceClassification
from luthier.models.load import load
from luthier.objectives.classification import Objective, Options
from luthier.types import Batch, Features, Refused

LABELS = {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
FUSIONS = [
    ("projection", {}), ("projection", {"tokens": 3}), ("projection", {"tokens": 2, "resample": True}),
    ("concatenation", {}), ("concatenation", {"when": "early"}), ("cross_attention", {}),
    ("modulation", {}), ("modulation", {"layers": 1}),
]  # fmt: skip


@pytest.mark.parametrize("kind", tiny.IMAGE_MODELS)
def test_logits_and_loss_are_transformers_own(kind: str, pictures: list[Path], tmp_path: Path) -> None:
    path = tiny.save_image_model(kind, tmp_path)
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
    with torch.no_grad():
        theirs = backbone.model(pixel_values=pixels, labels=torch.tensor([0, 1, 2, 0]))
        ours = torch.tensor(objective.outputs(backbone, batch))
        terms = objective.loss(backbone, batch)
    torch.testing.assert_close(ours, theirs.logits, atol=1e-5, rtol=1e-5)
    assert float(terms.total) / terms.count == pytest.approx(float(theirs.loss), rel=1e-5)


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


@pytest.mark.parametrize("kind", tiny.DUAL_MODELS)
def test_an_image_encoder_of_a_model_that_compares_is_transformers_own(
    kind: str, pictures: list[Path], tmp_path: Path
) -> None:
    """Its picture tower alone, where vectors of pictures are all that is asked for: a linear probe."""
    path = tiny.save_dual_model(kind, tmp_path)
    backbone = load(kind, path, "hidden", config=LABELS)
    assert backbone.fresh == set()
    with pytest.raises(Refused, match="method: features"):
        load(kind, path, "sequence_logits", config=LABELS)
    rows: list[Features] = [backbone.picture_row([one], None, None) | {"row": i} for i, one in enumerate(pictures)]
    batch = backbone.lay_out(rows)
    peer = transformers.AutoModel.from_pretrained(path).vision_model.eval()
    backbone.model.eval()
    with torch.no_grad():
        theirs = peer(pixel_values=batch["pixel_values"]).last_hidden_state
        ours = backbone.hidden(Batch(batch, list(range(len(rows)))))
    torch.testing.assert_close(ours, theirs.flatten(0, 1), atol=1e-6, rtol=1e-6)
