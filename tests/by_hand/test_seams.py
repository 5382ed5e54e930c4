"""The parts of encoder-decoders, read off transformers' modules."""

from __future__ import annotations

import pytest

import tiny
from luthier.models.seams import find_seams

T5 = [f"{stack}.block.{at}" for stack in ("encoder", "decoder") for at in (0, 1)]
BART = [f"model.{stack}.layers.{at}" for stack in ("encoder", "decoder") for at in (0, 1)]
GATED = {"wi_0": "gate", "wi_1": "up", "wo": "down"}
PLAIN = {"fc1": "up", "fc2": "down"}


@pytest.mark.parametrize(("name", "blocks", "embedding"), [("t5", T5, "shared"), ("bart", BART, "model.shared")])
def test_both_stacks(name: str, blocks: list[str], embedding: str) -> None:
    seams = find_seams(tiny.build(name))
    assert seams.blocks == blocks
    assert seams.stacks == ["encoder", "encoder", "decoder", "decoder"]
    assert seams.head == ["lm_head"]
    assert seams.embedding == embedding
    assert all(linear.name.startswith(f"{seams.blocks[linear.block]}.") for linear in seams.linears)
    assert all(linear.stack == seams.stacks[linear.block] for linear in seams.linears)


@pytest.mark.parametrize(
    ("name", "feed_forward", "cross"), [("t5", GATED, "EncDecAttention"), ("bart", PLAIN, "encoder_attn")]
)
def test_roles(name: str, feed_forward: dict[str, str], cross: str) -> None:
    """A block attends by four layers, a decoder's by four more to its source; the rest is feed-forward."""
    seams = find_seams(tiny.build(name))
    for block in range(4):
        linears = [linear for linear in seams.linears if linear.block == block]
        attention = [linear for linear in linears if "attention" in linear.roles]
        to_source = {linear.name for linear in linears if "cross_attention" in linear.roles}
        assert len(attention) == (4 if block < 2 else 8)
        assert to_source == {linear.name for linear in linears if cross in linear.name}
        assert len(to_source) == (0 if block < 2 else 4)
        for role in ("query", "key", "value", "output"):
            assert sum(role in linear.roles for linear in attention) == len(attention) / 4
        rest = {linear.name.rpartition(".")[2]: linear.roles for linear in linears if linear not in attention}
        assert rest == {leaf: frozenset({"feed_forward", role}) for leaf, role in feed_forward.items()}


@pytest.mark.parametrize(
    ("name", "head"), [("t5", "classification_head"), ("bart", "classification_head"), ("llama", "score")]
)
def test_the_head_of_a_classifier(name: str, head: str) -> None:
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_config(tiny.config(name))
    seams = find_seams(model)
    assert seams.head == [head]
    assert len(seams.blocks) == (2 if name == "llama" else 4)


def test_one_stack_has_no_name() -> None:
    seams = find_seams(tiny.build("llama"))
    assert seams.stacks == ["", ""]
    assert {linear.stack for linear in seams.linears} == {""}
    assert not any("cross_attention" in linear.roles for linear in seams.linears)
