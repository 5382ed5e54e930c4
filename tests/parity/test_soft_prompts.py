"""Soft prompts and prefixes: the same in every layout, off as if never there, and the same again once saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import reference
import torch
from soft import CASES, LENGTH, ONE_OF_EACH, adapted, assert_close, outputs, rows_for
from torch import Tensor

import tiny
from luthier.engine.fit import choose
from luthier.evaluate.generate import generate
from luthier.models.backbone import Backbone
from luthier.types import Adaptation, Refused

Opened = Callable[..., Backbone]
NO_PREFIX = "deberta-v2"
MODELS = [
    (name, needs, case)
    for case in ONE_OF_EACH
    for names, needs in ((tiny.ENCODERS, "sequence_logits"), (tiny.DECODERS, "token_logits"))
    for name in names
    if (name, case) != (NO_PREFIX, "prefix")
]
EOS = 1


@pytest.mark.parametrize(("name", "needs", "case"), MODELS)
@torch.no_grad()
def test_every_layout_gives_what_a_row_alone_gives(name: str, needs: str, case: str, opened: Opened) -> None:
    backbone = opened(name, needs)
    before = outputs(backbone, rows_for(backbone))
    adapted(backbone, case)
    rows = rows_for(backbone)
    expected = [outputs(backbone, [row])[0] for row in rows]
    assert all((a - b).abs().max() > 0.05 for a, b in zip(before, expected, strict=True))
    assert_close(outputs(backbone, rows), expected)
    with backbone.attention("sdpa"):
        assert_close(outputs(backbone, rows, "padded"), expected)
        if backbone.causal:
            assert_close(outputs(backbone, rows, "padded", "left"), expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "needs"), [("bert", "sequence_logits"), ("llama", "token_logits")])
def test_a_gradient_reaches_every_number_alike_in_both_layouts(
    case: str, name: str, needs: str, opened: Opened
) -> None:
    found: list[dict[str, Tensor]] = []
    for packing in ("auto", "off"):
        backbone = opened(name, needs, packing=packing)
        adaptation = adapted(backbone, case)
        found.append(_gradients(backbone, adaptation))
    for name_, gradient in found[0].items():
        assert gradient.abs().sum() > 0, name_
    reference.assert_same_gradients(*found)


@pytest.mark.parametrize("case", ["prompt, lstm", "prefix"])
def test_checkpointed_activations_give_the_same_gradient(case: str, opened: Opened) -> None:
    found = []
    for checkpointing in (False, True):
        backbone = opened("llama", "token_logits")
        if checkpointing:
            backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
        adaptation = adapted(backbone, case)
        backbone.model.train()
        found.append(_gradients(backbone, adaptation))
    reference.assert_same_gradients(*found)


def _gradients(backbone: Backbone, adaptation: Adaptation) -> dict[str, Tensor]:
    choose(backbone.model, adaptation)
    objective, rows = reference.objective(backbone), rows_for(backbone)
    objective.loss(backbone, objective.collate(rows)).total.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in adaptation.parameters.items()}


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@torch.no_grad()
def test_base_is_the_model_as_it_came_bit_for_bit(name: str, case: str, packing: str, opened: Opened) -> None:
    backbone = opened(name, "token_logits", packing=packing)
    rows, longest = rows_for(backbone), backbone.max_positions
    before = outputs(backbone, rows)
    adaptation = adapted(backbone, case)
    trained = outputs(backbone, rows)
    assert backbone.max_positions == longest - LENGTH
    assert adaptation.base is not None
    with adaptation.base():
        assert all(torch.equal(a, b) for a, b in zip(outputs(backbone, rows), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(outputs(backbone, rows), trained, strict=True))
    assert all((a - b).abs().max() > 0.01 for a, b in zip(trained, before, strict=True))
    assert adaptation.merge is None


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("bert", "sequence_logits"),
        ("roberta", "sequence_logits"),
        ("gpt2", "sequence_logits"),
        ("llama", "token_logits"),
    ],
)
@torch.no_grad()
def test_saved_and_put_back_it_is_the_same(name: str, needs: str, case: str, opened: Opened, tmp_path: Path) -> None:
    """Also where the layout is chosen afterwards: what asks the model how it is made asks it without them."""
    backbone = opened(name, needs)
    adapted(backbone, case).save(tmp_path)
    rows = rows_for(backbone)
    expected = outputs(backbone, rows)
    again = opened(name, needs, packing="off")
    CASES[case][0].attach(again, tmp_path)
    again.choose_layout("auto")
    assert again.layout == backbone.layout == "packed"
    assert again.position_offset == backbone.position_offset
    assert again.max_positions == backbone.max_positions
    assert again.causal == (name in tiny.DECODERS)
    if needs == "sequence_logits":
        assert again.reads == ("last" if name in tiny.DECODERS else "first")
    assert all(torch.equal(a, b) for a, b in zip(outputs(again, rows), expected, strict=True))


@pytest.mark.parametrize("case", ONE_OF_EACH)
@pytest.mark.parametrize("name", tiny.DECODERS)
@torch.no_grad()
def test_with_a_cache_it_writes_what_it_writes_without(name: str, case: str, opened: Opened) -> None:
    """Greedy, six tokens for prompts of several lengths together; expected: the argmax of the whole row."""
    backbone = opened(name, "token_logits")
    adapted(backbone, case)
    prompts = [row["input_ids"] for row in rows_for(backbone)]
    for ids, found in zip(prompts, generate(backbone, prompts, max_new_tokens=6), strict=True):
        expected: list[int] = []
        for _ in range(6):
            logits_TV = outputs(backbone, [{"input_ids": ids + expected}])[0]
            if (token := int(logits_TV[-1].argmax())) == EOS:
                break
            expected.append(token)
        assert found == expected


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_an_adapter_of_another_model_is_refused(case: str, opened: Opened, tmp_path: Path) -> None:
    adapted(opened("llama", "token_logits"), case).save(tmp_path)
    other = opened("llama", "token_logits", hidden_size=48, num_key_value_heads=2, num_attention_heads=2, head_dim=24)
    with pytest.raises(Refused) as refused:
        CASES[case][0].attach(other, tmp_path)
    assert [finding.code for finding in refused.value.findings] == ["adapter.mismatch"]


@torch.no_grad()
def test_both_at_once_are_each_switched_alone(opened: Opened) -> None:
    backbone = opened("llama", "token_logits")
    rows = rows_for(backbone)
    before = outputs(backbone, rows)
    first = adapted(backbone, "prefix")
    alone = outputs(backbone, rows)
    second = adapted(backbone, "prompt")
    assert first.base is not None
    assert second.base is not None
    with second.base():
        assert all(torch.equal(a, b) for a, b in zip(outputs(backbone, rows), alone, strict=True))
        with first.base():
            assert all(torch.equal(a, b) for a, b in zip(outputs(backbone, rows), before, strict=True))
    together = outputs(backbone, rows)
    with backbone.attention("sdpa"):
        assert_close(outputs(backbone, rows, "padded", "left"), together)
