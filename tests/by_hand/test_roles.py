"""Roles of a model's parts, and a learning rate for each: which parameters have which, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import luthier
import tiny
from luthier.engine.optimizer import build, set_learning_rate
from luthier.engine.schedule import learning_rate
from luthier.models.backbone import Backbone
from luthier.models.joined.compose import compose
from luthier.models.load import load
from luthier.types import Refused


def opened(kind: str, folder: Path) -> Any:
    if kind in ("vit", "resnet"):
        return load(kind, tiny.save_image_model(kind, folder), "sequence_logits", config={"num_labels": 2})
    if kind in tiny.DUAL_MODELS:
        return load(kind, tiny.save_dual_model(kind, folder), "vectors")
    if kind in ("cross_attention", "similarity"):
        vit, bert = tiny.save_image_model("vit", folder / "vit"), tiny.save("bert", folder / "bert")
        compose(vit, bert, kind, {}, folder / "both")
        needs = "vectors" if kind == "similarity" else "sequence_logits"
        return load(kind, str(folder / "both"), needs, config={} if needs == "vectors" else {"num_labels": 2})
    needs = "token_logits" if kind in ("llama", "t5") else "sequence_logits"
    return load(kind, tiny.save(kind, folder), needs, config={} if needs == "token_logits" else {"num_labels": 2})


EXPECTED = {
    "bert": {"text": ("bert",), "head": ("dropout", "classifier")},
    "llama": {"text": ("model",), "head": ("lm_head",)},
    "t5": {"encoder": ("encoder", "shared"), "decoder": ("decoder",), "head": ("lm_head",)},
    "vit": {"vision": ("vit",), "head": ("classifier",)},
    "clip": {
        "vision": ("vision_model",), "text": ("text_model",),
        "projector": ("logit_scale", "text_projection", "visual_projection"),
    },
    "siglip": {"vision": ("vision_model",), "text": ("text_model",), "projector": ("logit_bias", "logit_scale")},
    "cross_attention": {
        "vision": ("model.image",), "text": ("model.text",), "projector": ("model.fusion",),
        "head": ("classifier", "dropout"),
    },
    "similarity": {
        "vision": ("model.image",), "text": ("model.text",), "projector": ("logit_scale", "model.fusion"),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_roles_of_a_model(kind: str, tmp_path: Path) -> None:
    """Which they are; and each number is in one of them, none in two."""
    backbone = opened(kind, tmp_path)
    found = {role: tuple(sorted(one.names)) for role, one in backbone.roles.items()}
    assert {role: set(names) for role, names in found.items()} == {r: set(names) for r, names in EXPECTED[kind].items()}
    whole = sum(parameter.numel() for parameter in backbone.model.parameters())
    assert sum(map(backbone.numbers, backbone.roles)) == whole


def test_a_vision_language_model_of_transformers_tells_its_roles_by_its_configs() -> None:
    """LLaVA's parts, each built from a config of its own; the projector is what no tower holds."""
    text = tiny.config("llama", vocab_size=64)
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=5)
    model = transformers.LlavaForConditionalGeneration(config)
    backbone = Backbone(model, tiny.tokenizer(encoder=False), "llava", "")
    assert {role: one.names for role, one in backbone.roles.items()} == {
        "vision": ("model.vision_tower",),
        "text": ("model.language_model",),
        "projector": ("model.multi_modal_projector",),
        "head": ("lm_head",),
    }
    with backbone.within("vision"):
        assert (len(backbone.seams.blocks), backbone.stream_width) == (2, 32)
        assert all(name.startswith("model.vision_tower.") for name, _ in backbone.named_parameters())
        assert {linear.block for linear in backbone.seams.linears} == {0, 1}
    with backbone.within("projector"):
        names = [linear.name for linear in backbone.seams.linears_by_role(["all"])]
    assert names == ["model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"]


def test_blocks_of_a_role_are_counted_from_0(tmp_path: Path) -> None:
    backbone = opened("cross_attention", tmp_path)
    with backbone.within("text"):
        assert backbone.seams.blocks == ["model.text.encoder.layer.0", "model.text.encoder.layer.1"]
        assert {linear.block for linear in backbone.seams.linears} == {0, 1}
    assert [block.split(".")[1] for block in backbone.seams.blocks] == ["image", "image", "text", "text"]


def test_each_group_has_its_own_rate_at_every_step() -> None:
    """Four steps, one of warm-up, linear: the factors are 1/2, 1, 2/3, 1/3, of 0.1 and of 0.003."""
    parameters = {name: torch.nn.Parameter(torch.ones(2, 2)) for name in ("a", "b", "c")}
    optimizer = build(parameters, 0.1, 0.0, {"b": 0.003})
    groups = {group["peak"]: group for group in optimizer.param_groups}
    assert {peak: len(group["params"]) for peak, group in groups.items()} == {0.1: 2, 0.003: 1}
    for step, factor in enumerate((1 / 2, 1, 2 / 3, 1 / 3)):
        set_learning_rate(optimizer, lambda peak, at=step: learning_rate(peak, "linear", at, 4, 1))
        assert groups[0.1]["lr"] == pytest.approx(0.1 * factor)
        assert groups[0.003]["lr"] == pytest.approx(0.003 * factor)


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    rows = []
    for i in range(16):
        colour = ("red", "green")[i % 2]
        tiny.save_picture(tmp_path / "images" / f"{i}.png", colour, seed=i)
        rows.append({"image": f"images/{i}.png", "label": colour, "text": f"the {tiny.WORDS[3 + i % 9]}"})
    towers = {"image": tiny.save_image_model("vit", tmp_path / "vit"), "text": tiny.save("bert", tmp_path / "bert")}
    return {
        "task": "classify", "model": {**towers, "fuse": "concatenation"}, "out": str(tmp_path / "runs"),
        "data": {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", rows), "eval": 0.25}, "steps": 1, "warmup": 0,
        "weight_decay": 0.0, "schedule": "constant", "final": "last",
    }  # fmt: skip


def test_one_step_moves_each_role_by_its_own_rate(asked: dict[str, Any], tmp_path: Path) -> None:
    """AdamW's first step is rate · g / (|g| + ε) without decay: a number with a gradient moves by the rate."""
    rates = {"vision": 1e-3, "text": 2e-4, "projector": 5e-3, "head": 7e-3}
    method = {role: {"full": {}, "learning_rate": rate} for role, rate in rates.items()}
    _, prepared = luthier.check(**asked, method=method)
    before = {name: p.detach().clone() for name, p in prepared.backbone.model.named_parameters()}
    held = {role: one.holds for role, one in prepared.backbone.roles.items()}
    run = luthier.tune(**asked, method=method)
    after = dict(luthier.load(run.folder).predictor.backbone.model.named_parameters())
    for role, rate in rates.items():
        moved = torch.cat([(after[n] - old).abs().flatten() for n, old in before.items() if held[role](n)])
        assert float(moved.max()) == pytest.approx(rate, rel=2e-3), role
        assert float((moved > 0.9 * rate).float().mean()) > 0.3, role


MISTAKES = [
    ({"vison": "lora", "text": "lora"}, "recipe.method", "did you mean `vision`?"),
    ({"visoin": "lora"}, "recipe.method", "did you mean `vision`?"),
    ({"vision": "lroa"}, "recipe.method", "did you mean `lora`?"),
    ({"vision": "lora", "adapter": {}}, "recipe.method", "one of: vision"),
    ({"vision": {"lora": {"rnak": 4}}}, "recipe.unknown-key", "did you mean `rank`?"),
    ({"vision": {"lora": {}, "learning_rate": -1}}, "recipe.value", "give a value"),
    ({"vision": {"learning_rate": 1e-3}}, "recipe.method", "give it one"),
    ({"vision": "frozen", "text": None}, "method.combination", "at least one role"),
    ({"vision": ["lora", "ia3"]}, "method.combination", "take one of them"),
    ({"text": "prefix", "vision": "prefix"}, "method.combination", "one role"),
    ({"audio": "lora"}, "method.no-role", "one of: vision, text, projector, head"),
    ({"text": "lora", "projector": "frozen"}, "method.combination", "leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "code", "mend"), MISTAKES)
def test_a_mistake_is_told_with_what_is_near(method: Any, code: str, mend: str, asked: dict[str, Any]) -> None:
    findings, _ = luthier.check(**asked, method=method)
    (found,) = (finding for finding in findings if finding.severity == "error")
    assert (found.code, mend in found.mend) == (code, True), found


def test_the_recipe_s_own_rate_is_that_of_roles_without_one(asked: dict[str, Any]) -> None:
    method = {"vision": {"lora": {}, "learning_rate": 1e-4}, "text": "lora"}
    _, prepared = luthier.check(**asked, method=method, learning_rate=3e-3)
    found = {role: tower.learning_rate for role, tower in prepared.resolved.methods.towers.items()}
    assert found == {"vision": 1e-4, "text": 3e-3, "projector": 3e-3, "head": 3e-3}
    _, prepared = luthier.check(**asked, method=method)
    found = {role: tower.learning_rate for role, tower in prepared.resolved.methods.towers.items()}
    assert found == {"vision": 1e-4, "text": 5e-4, "projector": 1e-3, "head": 1e-3}
    assert prepared.resolved.recipe.learning_rate == 1e-3


def test_what_is_frozen_and_what_is_new_is_told(asked: dict[str, Any]) -> None:
    findings, prepared = luthier.check(**asked, method={"text": {"lora": {"rank": 4}}})
    told = {finding.code: finding.what for finding in findings if finding.code.startswith("method.")}
    assert f"`vision` is frozen: its {prepared.backbone.numbers('vision'):,} numbers" in told["method.frozen-role"]
    assert "that trains too" in told["method.new-role"]
    with pytest.raises(Refused), prepared.backbone.within("audio"):
        pass
