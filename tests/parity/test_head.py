"""The head alone, the trunk answered for, gives what the whole model gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import reference
import torch

import tiny
from luthier.models.backbone import Backbone
from luthier.models.heads import head_logits

Opened = Callable[..., Backbone]
CASES = [(name, "sequence_logits") for name in (*tiny.ENCODERS, *tiny.DECODERS)]
CASES += [(name, "token_logits") for name in tiny.DECODERS]
READS = {"modernbert-mean": "all"} | dict.fromkeys(tiny.DECODERS, "last")


@pytest.mark.parametrize(("name", "needs"), CASES)
@torch.no_grad()
def test_head_logits_are_the_models_own(name: str, needs: str, opened: Opened) -> None:
    backbone = opened(name, needs, packing="off")
    for row in reference.random_rows(len(backbone.embedding.weight)):
        ids_1T = torch.tensor([row["input_ids"]])
        mask_1T = torch.ones_like(ids_1T)
        hidden_1TD = backbone.trunk(input_ids=ids_1T, attention_mask=mask_1T).last_hidden_state
        found = head_logits(backbone.model, hidden_1TD, mask_1T)[0]
        torch.testing.assert_close(found, reference.alone(backbone, row["input_ids"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [*tiny.ENCODERS, *tiny.DECODERS])
def test_which_positions_a_classifier_reads(name: str, opened: Opened) -> None:
    assert opened(name, "sequence_logits", packing="off").reads == READS.get(name, "first")


def test_the_trunk_is_back_afterwards(opened: Opened) -> None:
    backbone = opened("llama", "token_logits", packing="off")
    trunk, names = backbone.trunk, [name for name, _ in backbone.model.named_modules()]
    with pytest.raises(RuntimeError):
        head_logits(backbone.model, torch.zeros(1, 3, backbone.width + 1))
    assert backbone.trunk is trunk
    assert [name for name, _ in backbone.model.named_modules()] == names
