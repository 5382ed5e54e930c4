"""Cross-entropy a chunk of positions at a time is torch's cross-entropy: its value and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import reference
import torch
import torch.nn.functional as F
from torch import nn

from luthier.models.backbone import Backbone
from luthier.objectives import chunked
from luthier.objectives.chunked import cross_entropy_sum

Opened = Callable[..., Backbone]


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest chunk, 16 positions."""
    monkeypatch.setattr(chunked, "CHUNK", 1)


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("positions", [1, 15, 16, 17, 50])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_value_and_gradients(positions: int, softcap: float | None) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(positions, 8, generator=draw, requires_grad=True)
    layer = nn.Linear(8, 40)
    targets_N = torch.randint(40, (positions,), generator=draw)
    weights_N = torch.rand(positions, generator=draw)

    def head(hidden: torch.Tensor) -> torch.Tensor:
        logits = layer(hidden)
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    found = cross_entropy_sum(head, list(layer.parameters()), hidden_ND, targets_N, weights_N, 40)
    expected = (F.cross_entropy(head(hidden_ND), targets_N, reduction="none") * weights_N).sum()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    inputs = [hidden_ND, *layer.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(3 * found, inputs), torch.autograd.grad(3 * expected, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_no_position_gives_zero_and_zero_gradients() -> None:
    hidden_ND = torch.ones(4, 8, requires_grad=True)
    layer = nn.Linear(8, 40)
    none = torch.zeros(0, dtype=torch.long)
    loss = cross_entropy_sum(layer, list(layer.parameters()), hidden_ND[:0], none, torch.zeros(0), 40)
    loss.backward()
    assert loss.item() == 0
    assert hidden_ND.grad is not None
    assert not hidden_ND.grad.any()


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("name", ["llama", "llama-tied", "gemma2", "gpt2"])
def test_of_a_whole_model(name: str, opened: Opened) -> None:
    """Untied, tied (the embedding has gradients from both its ends) and soft-capped heads, against plain torch."""
    backbone = opened(name, "token_logits")
    rows = [row | {"supervised": [True] * len(row["input_ids"])} for row in reference.random_rows(300)]
    for row in rows:
        row["supervised"][0] = False
    assert sum(sum(row["supervised"]) for row in rows) > 2 * 16
    objective = reference.objective(backbone)
    expected = reference.loss_of(backbone, rows)
    expected_gradients = reference.gradients(backbone, expected)
    terms = objective.loss(backbone, objective.collate(rows))
    torch.testing.assert_close(terms.total, expected.detach(), rtol=1e-6, atol=1e-6)
    reference.assert_same_gradients(reference.gradients(backbone, terms.total), expected_gradients)
    tied = backbone.model.get_input_embeddings().weight is backbone.model.get_output_embeddings().weight
    assert tied == (name != "llama")
