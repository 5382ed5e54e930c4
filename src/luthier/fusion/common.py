"""What the mechanisms share. What is said of pictures holds for sounds, each of which has hidden states of its own
number: ``lengths_I`` says how many of the P are its own, None where all are.

Axes: I pictures, P hidden states of one, K rows, L columns, D width of pictures, E width of text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Text = Callable[..., Any]
"""The text tower: takes ``input_ids`` or ``inputs_embeds`` and gives ``last_hidden_state`` (K, L, E)."""


@dataclass(frozen=True)
class Sizes:
    """What a mechanism is built for: widths of both sides, the hidden states of one picture, the blocks of a text model
    that writes (0 of an encoder), and whether sounds stand in the place of pictures."""

    pictures: int
    text: int
    tokens: int
    blocks: int = 0
    sounds: bool = False


class Drawn(nn.Module):
    """A module with parameters of its own beside its layers', which it draws itself."""

    def draw(self) -> None:
        raise NotImplementedError


class ByWidth(nn.Linear, Drawn):
    """A linear layer that is drawn by the width of what it reads (He et al. 2015, arXiv 1502.01852; torch's own), where
    all others have the one spread of the text model's own: 0.02 of most, a fifth of what a width of 96 asks for."""

    def draw(self) -> None:
        self.reset_parameters()


class Inside(nn.Module):
    """A mechanism that works between the blocks of the text tower."""

    def enter(self, blocks: Sequence[nn.Module]) -> None:
        raise NotImplementedError


def mean_by_row(values_ID: Tensor, rows_I: Tensor, rows: int) -> Tensor:
    """(K, D): the mean of each row's pictures, zeros for a row without any."""
    summed_KD = values_ID.new_zeros(rows, values_ID.shape[1]).index_add(0, rows_I, values_ID)
    counts_K = torch.zeros(rows, device=rows_I.device).index_add(0, rows_I, torch.ones_like(rows_I, dtype=torch.float))
    return summed_KD / counts_K.clamp(min=1)[:, None]


def mean_of(states_IPD: Tensor, lengths_I: Tensor | None) -> Tensor:
    """(I, D): the mean of each picture's hidden states."""
    if lengths_I is None:
        return states_IPD.mean(1)
    own_IP1 = (torch.arange(states_IPD.shape[1], device=states_IPD.device) < lengths_I[:, None])[..., None]
    return (states_IPD * own_IP1).sum(1) / lengths_I[:, None]


def by_row(
    values_IPD: Tensor, rows_I: Tensor, rows: int, lengths_I: Tensor | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(K, M · P, D) and a mask (K, M · P): the pictures of each row end to end, M the most that a row has.

    ``rows_I`` is in order, as rows are.
    """
    counts_K = torch.bincount(rows_I, minlength=rows)
    most = int(counts_K.max()) if len(rows_I) else 1
    first_K = counts_K.cumsum(0) - counts_K
    place_I = torch.arange(len(rows_I), device=rows_I.device) - first_K[rows_I]
    _, states, width = values_IPD.shape
    laid = values_IPD.new_zeros(rows * most, states, width).index_copy(0, rows_I * most + place_I, values_IPD)
    own_IP = torch.ones(len(rows_I), states, dtype=torch.bool, device=rows_I.device)
    if lengths_I is not None:
        own_IP = torch.arange(states, device=rows_I.device) < lengths_I[:, None]
    mask = own_IP.new_zeros(rows * most, states).index_copy(0, rows_I * most + place_I, own_IP)
    return laid.view(rows, -1, width), mask.view(rows, -1)


class Projector(nn.Module):
    """(.., D) → (.., E): a linear layer, or two with GELU between (Liu et al. 2023b, arXiv 2310.03744, section 3.2)."""

    def __init__(self, given: int, made: int, layers: int, linear: type[nn.Linear] = nn.Linear):
        super().__init__()
        inner = [part for _ in range(layers - 1) for part in (nn.GELU(), linear(made, made))]
        self.layers = nn.Sequential(nn.LayerNorm(given), linear(given, made), *inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
