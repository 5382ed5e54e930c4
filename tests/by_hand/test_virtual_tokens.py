"""Where virtual tokens come to lie: the batches of ``models/virtual.py``, written out.

Axes: as there.
"""

from __future__ import annotations

import torch
from torch import nn

from luthier.models.virtual import lengthened

# Token n has the embedding [n]; the two virtual tokens have -1 and -2.
EMBEDDING = nn.Embedding.from_pretrained(torch.arange(10.0)[:, None])
PROMPT = torch.tensor([[-1.0], [-2.0]])


def test_a_packed_row() -> None:
    """[5 6 7] and [8], counted from position 3 as RoBERTa does, with one token that fills up."""
    bounds = torch.tensor([0, 3, 4, 5], dtype=torch.int32)
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 8, 0]]), "position_ids": torch.tensor([[3, 4, 5, 3, 3]]),
        "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 3, "max_length_k": 3,
    }  # fmt: skip
    longer, kept = lengthened(inputs, EMBEDDING, PROMPT)
    assert "input_ids" not in longer
    assert longer["inputs_embeds"].flatten().tolist() == [-1, -2, 5, 6, 7, -1, -2, 8, -1, -2, 0]
    assert longer["position_ids"].tolist() == [[3, 4, 5, 6, 7, 3, 4, 5, 3, 4, 5]]
    assert longer["cu_seq_lens_q"].tolist() == longer["cu_seq_lens_k"].tolist() == [0, 5, 8, 11]
    assert longer["cu_seq_lens_q"].dtype == torch.int32
    assert (longer["max_length_q"], longer["max_length_k"]) == (5, 5)
    assert kept.tolist() == [2, 3, 4, 7, 10]


def test_rows_padded_on_the_right() -> None:
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7], [8, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
    }  # fmt: skip
    longer, kept = lengthened(inputs, EMBEDDING, PROMPT)
    assert longer["inputs_embeds"][:, :, 0].tolist() == [[-1, -2, 5, 6, 7], [-1, -2, 8, 0, 0]]
    assert longer["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert "position_ids" not in longer
    assert kept.tolist() == [2, 3, 4, 7, 8, 9]


def test_rows_padded_on_the_left() -> None:
    """The virtual tokens stand beside the row's first token, not before its pads."""
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7], [0, 0, 8]]), "attention_mask": torch.tensor([[1, 1, 1], [0, 0, 1]]),
        "position_ids": torch.tensor([[0, 1, 2], [0, 0, 0]]),
    }  # fmt: skip
    longer, kept = lengthened(inputs, EMBEDDING, PROMPT)
    assert longer["inputs_embeds"][:, :, 0].tolist() == [[-1, -2, 5, 6, 7], [0, 0, -1, -2, 8]]
    assert longer["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert longer["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]]
    assert kept.tolist() == [2, 3, 4, 5, 6, 9]


def test_the_gradient_of_a_virtual_token_is_that_of_every_row() -> None:
    """Two rows: the sum of all embeddings has gradient 2 at each virtual token."""
    prompt = PROMPT.clone().requires_grad_()
    inputs = {"input_ids": torch.tensor([[5, 6], [7, 8]]), "attention_mask": torch.ones(2, 2, dtype=torch.long)}
    longer, _ = lengthened(inputs, EMBEDDING, prompt)
    (gradient,) = torch.autograd.grad(longer["inputs_embeds"].sum(), prompt)
    assert gradient.flatten().tolist() == [2, 2]
