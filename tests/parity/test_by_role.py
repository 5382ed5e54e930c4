"""What was trained by role, opened by PEFT and transformers alone: the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageClassification

import luthier
import tiny
from luthier.models.joined.composed import ComposedForSequenceClassification


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    found = []
    for i in range(24):
        colour = ("red", "green", "blue")[i % 3]
        tiny.save_picture(tmp_path / "images" / f"{i}.png", colour, seed=i)
        text = f"{colour} {tiny.WORDS[3 + i % 8]} {tiny.WORDS[i % 5]}"
        found.append({"image": str(tmp_path / "images" / f"{i}.png"), "text": text, "label": colour})
    return found


def tuned(rows: list[dict[str, Any]], out: Path, **keys: Any) -> luthier.Run:
    data = tiny.write_jsonl(out / "rows.jsonl", rows)
    return luthier.tune(
        data={"train": data, "eval": 0.25}, out=str(out / "runs"), steps=4, warmup=0, schedule="constant", final="last",
        **keys,
    )  # fmt: skip


def with_weights(model: torch.nn.Module, folder: Path) -> None:
    """Numbers of the model itself that were saved under their own names."""
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "WEIGHTS"
    own = dict(model.named_parameters())
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        own[name.removeprefix("base_model.model.")].data.copy_(tensor)


def test_peft_opens_two_loras_of_clip_and_gives_the_same_logits(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tiny.save_dual_model("clip", tmp_path / "clip")
    captions = [{"image": row["image"], "caption": row["text"]} for row in rows]
    method = {
        "vision": {"lora": {"rank": 4}, "learning_rate": 2e-2},
        "text": {"lora": {"rank": 2}, "learning_rate": 1e-2},
    }
    run = tuned(captions, tmp_path, task="match", model=path, method=method)
    opened = luthier.load(run.folder)
    inputs = opened.predictor.backbone.sample_inputs()
    inputs["input_ids"] = torch.tensor([[3, 20, 21, 4], [3, 22, 23, 4]])
    inputs["pixel_values"] = torch.randn(
        2, *inputs["pixel_values"].shape[1:], generator=torch.Generator().manual_seed(0)
    )
    base, final = AutoModel.from_pretrained(path).eval(), run.folder / "final"
    theirs = PeftModel.from_pretrained(base, str(final / "vision"), adapter_name="vision")
    theirs.load_adapter(str(final / "text"), "text")
    theirs.base_model.set_adapter(["vision", "text"])
    with torch.no_grad():
        model = opened.predictor.backbone.model
        scale = {"logit_scale": model.logit_scale}  # the objective's own: no method's
        base.logit_scale.copy_(scale["logit_scale"])
        torch.testing.assert_close(theirs(**inputs).logits_per_image, model(**inputs).logits_per_image)
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(**inputs).logits_per_image, model(**inputs).logits_per_image)


@pytest.mark.parametrize("kind", tiny.DUAL_MODELS)
def test_peft_opens_lora_in_an_image_encoder_and_its_classifier_beside(
    kind: str, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A classifier on one tower of a model of two, each with a rate of its own: LoRA in the tower, the head whole.
    Folded in, transformers opens it alone."""
    path = tiny.save_dual_model(kind, tmp_path / kind)
    method = {"vision": {"lora": {"rank": 4}, "learning_rate": 2e-2}, "head": {"full": {}, "learning_rate": 1e-2}}
    labelled = [{name: row[name] for name in ("image", "label")} for row in rows]
    run = tuned(labelled, tmp_path, task="classify", model=path, method=method)
    rates = {role["role"]: role["learning_rate"] for role in run.result["roles"] if role["trained"]}
    assert rates == {"vision": 2e-2, "head": 1e-2}
    final, model = run.folder / "final", luthier.load(run.folder).predictor.backbone.model
    pixels = torch.randn(2, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(0))
    base = AutoModelForImageClassification.from_pretrained(path, num_labels=3).eval()
    with_weights(base, final / "head")
    theirs = PeftModel.from_pretrained(base, str(final / "vision"))
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixel_values=pixels).logits, model(pixel_values=pixels).logits)
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(pixel_values=pixels).logits, model(pixel_values=pixels).logits)
        whole = AutoModelForImageClassification.from_pretrained(run.export("merged")["folder"]).eval()
        torch.testing.assert_close(whole(pixel_values=pixels).logits, model(pixel_values=pixels).logits)
        assert list(whole.config.id2label.values()) == ["blue", "green", "red"]


def test_peft_opens_a_tower_of_a_composed_model(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    towers = {"image": tiny.save_image_model("vit", tmp_path / "vit"), "text": tiny.save("bert", tmp_path / "bert")}
    method = {
        "vision": {"lora": {"rank": 4}, "learning_rate": 2e-2},
        "text": {"ia3": {}, "learning_rate": 1e-1},
        "projector": {"full": {}, "learning_rate": 1e-2},
    }
    run = tuned(rows, tmp_path, task="classify", model={**towers, "fuse": "cross_attention"}, method=method)
    backbone, final = luthier.load(run.folder).predictor.backbone, run.folder / "final"
    base = ComposedForSequenceClassification.from_pretrained(run.info["model"]["path"], num_labels=3)
    for role in ("projector", "head"):
        with_weights(base, final / role)
    theirs = PeftModel.from_pretrained(base, str(final / "vision"), adapter_name="vision")
    theirs = PeftModel.from_pretrained(theirs.base_model.model, str(final / "text"), adapter_name="text")
    for module in theirs.modules():
        if isinstance(getattr(module, "lora_A", None), torch.nn.ModuleDict):
            module.set_adapter("vision")
    inputs = {
        "input_ids": torch.tensor([[3, 20, 21, 4], [3, 22, 4, 2]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "pixel_values": torch.randn(2, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(1)),
        "picture_rows": torch.tensor([0, 1]),
    }  # fmt: skip
    with torch.no_grad():
        ours = backbone.model.eval()(**inputs).logits
        torch.testing.assert_close(theirs.eval()(**inputs).logits, ours, atol=1e-5, rtol=1e-5)
    assert (ours[0] - ours[1]).abs().max() > 1e-3


def test_merged_roles_are_one_model_of_transformers(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    towers = {"image": tiny.save_image_model("vit", tmp_path / "vit"), "text": tiny.save("bert", tmp_path / "bert")}
    method = {"vision": {"lora": {"rank": 4}, "learning_rate": 2e-2}, "text": {"full": {}, "learning_rate": 1e-3}}
    run = tuned(rows, tmp_path, task="classify", model={**towers, "fuse": "concatenation"}, method=method)
    told = run.export("merged")
    assert told["relative"] < 1e-4
    bent = {"vision": {"lora": {"rank": 4}}, "text": {"adapter": {"size": 4}}}
    other = tuned(rows, tmp_path / "other", task="classify", model={**towers, "fuse": "concatenation"}, method=bent)
    with pytest.raises(luthier.types.Refused) as refused:
        other.export("merged")
    assert [finding.where for finding in refused.value.findings] == ["method.text"]
