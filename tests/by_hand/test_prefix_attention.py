"""A prefix in an attention's sums: by hand, in numbers whose exponentials are friendly.

Axes: B rows, H heads, T tokens, E width of a head, P positions of the prefix.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from luthier.models.attention import packed_attention
from luthier.models.prefixed import Switch, carry, prefixed_attention

LOG = [math.log(n) for n in range(1, 8)]
# Width 1: the query is 1 and a key is log w, so that w is the weight of its value before they are divided by their sum.
PREFIX = (torch.tensor([[[LOG[2]]]]), torch.tensor([[[10.0]]]))  # weight 3, value 10


class Attention(nn.Module):
    def __init__(self, *, is_causal: bool):
        super().__init__()
        self.is_causal = is_causal


def prefixed(*, is_causal: bool, on: bool = True) -> Attention:
    module = Attention(is_causal=is_causal)
    carry(module, Switch(on), lambda: PREFIX)
    return module


def column(*numbers: float) -> Tensor:
    """(1, 1, T, 1)."""
    return torch.tensor(numbers, dtype=torch.float32)[None, None, :, None]


def test_the_first_equation_of_the_paper_for_two_tokens() -> None:
    """Keys log 1 and log 2, values 4 and 7; before them the prefix: key log 3, value 10.

    Both seen by both:   (3·10 + 1·4 + 2·7) / (3 + 1 + 2) = 48 / 6 = 8.
    Causal, token 0:     (3·10 + 1·4) / (3 + 1) = 34 / 4 = 8.5; token 1 sees both: 8.
    Without the prefix:  (1·4 + 2·7) / 3 = 6; causal, token 0: 4.
    """
    query, key, value = column(1, 1), column(LOG[0], LOG[1]), column(4, 7)
    for on, causal, expected in [(True, False, [8, 8]), (True, True, [8.5, 8]),
                                 (False, False, [6, 6]), (False, True, [4, 6])]:  # fmt: skip
        module = prefixed(is_causal=causal, on=on)
        bounds = torch.tensor([0, 2], dtype=torch.int32)
        found, _ = prefixed_attention(module, query, key, value, None, scaling=1.0)
        packed, _ = packed_attention(module, query, key, value, None, scaling=1.0, cu_seq_lens_q=bounds)
        torch.testing.assert_close(found.flatten(), torch.tensor(expected).float())
        torch.testing.assert_close(packed.flatten(), torch.tensor(expected).float())


def test_every_sequence_of_a_packed_row_sees_the_prefix_and_itself() -> None:
    """Three tokens in sequences of 1 and 2. Alone, token 0: (3·10 + 2·4) / 5 = 7.6.

    The second, causal: (30 + 1·7) / 4 = 9.25, then (30 + 1·7 + 4·1) / 8 = 5.125.
    """
    query, key, value = column(1, 1, 1), column(LOG[1], LOG[0], LOG[3]), column(4, 7, 1)
    bounds = torch.tensor([0, 1, 3], dtype=torch.int32)
    found, _ = packed_attention(
        prefixed(is_causal=True), query, key, value, None, scaling=1.0, cu_seq_lens_q=bounds
    )  # fmt: skip
    torch.testing.assert_close(found.flatten(), torch.tensor([7.6, 9.25, 5.125]))


@pytest.mark.parametrize("softcap", [None, 1e4])
def test_a_window_counts_tokens_and_never_hides_the_prefix(softcap: float | None) -> None:
    """A window of 2, causal, tokens of weights 1, 2, 4 and values 4, 7, 1.

    Token 0: 34 / 4 = 8.5; token 1: 48 / 6 = 8; token 2 no longer sees token 0: (30 + 14 + 4) / (3 + 2 + 4) = 48 / 9.
    The mask that transformers gives: row t is True at t and t - 1. (A cap of 10⁴ leaves the scores as they are.)
    """
    query, key, value = column(1, 1, 1), column(LOG[0], LOG[1], LOG[3]), column(4, 7, 1)
    expected = torch.tensor([8.5, 8, 48 / 9])
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1]], dtype=torch.bool)[None, None]
    module = prefixed(is_causal=True)
    for given in (mask, torch.where(mask, 0.0, -1e9)):
        found, _ = prefixed_attention(module, query, key, value, given, scaling=1.0, softcap=softcap)
        torch.testing.assert_close(found.flatten(), expected)
    bounds = torch.tensor([0, 3], dtype=torch.int32)
    packed, _ = packed_attention(
        module, query, key, value, None, scaling=1.0, sliding_window=2, softcap=softcap, cu_seq_lens_q=bounds
    )  # fmt: skip
    torch.testing.assert_close(packed.flatten(), expected)


def test_a_position_bias_is_for_tokens_alone() -> None:
    """Bias log 5 on token 1: its weight is 2 · 5 = 10. (3·10 + 1·4 + 10·7) / (3 + 1 + 10) = 104 / 14."""
    query, key, value = column(1, 1), column(LOG[0], LOG[1]), column(4, 7)
    bias = torch.tensor([0.0, LOG[4]]).expand(1, 1, 2, 2)
    found, _ = prefixed_attention(
        prefixed(is_causal=False), query, key, value, None, scaling=1.0, position_bias=bias
    )  # fmt: skip
    torch.testing.assert_close(found.flatten(), torch.full((2,), 104 / 14))


def test_a_step_with_a_cache_sees_all_keys_and_the_prefix() -> None:
    """One query for three keys: (3·10 + 1·4 + 2·7 + 4·1) / (3 + 1 + 2 + 4) = 52 / 10."""
    key, value = column(LOG[0], LOG[1], LOG[3]), column(4, 7, 1)
    found, _ = prefixed_attention(prefixed(is_causal=True), column(1), key, value, None, scaling=1.0)
    torch.testing.assert_close(found.flatten(), torch.tensor([5.2]))
