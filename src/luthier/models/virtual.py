"""Virtual tokens: embeddings laid before each row's own, in packed and in padded batches.

Two rows [a b c] and [d] with two virtual tokens p q; attention sees, and ``kept`` finds the real tokens again:

    packed                                  padded (left)
    p q a b c p q d                         p q a b c        positions 0 1 2 3 4
    0 1 2 3 4 0 1 2   positions             – – p q d                  0 0 0 1 2

They lie next to the row's first token on either side of padding, so that distances are those of a row alone.

Axes: K rows (sequences), T tokens of a packed row, L columns of a padded batch, P virtual tokens, D hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def lengthened(inputs: dict[str, Any], embedding: nn.Module, prompt_PD: Tensor) -> tuple[dict[str, Any], Tensor]:
    """The inputs of a trunk with ``prompt_PD`` before each row, and where its flattened output has the given tokens.

    ``inputs`` are those of ``Backbone.hidden``: ``input_ids`` with ``cu_seq_lens_q`` and ``position_ids`` (packed), or
    with ``attention_mask`` (padded). The second value has as many places as ``input_ids`` has tokens, pads included.
    """
    embeds_KLD = embedding(inputs["input_ids"])
    prompt_PD = prompt_PD.to(embeds_KLD.dtype)
    longer = {key: value for key, value in inputs.items() if key != "input_ids"}
    if "cu_seq_lens_q" in inputs:
        return _packed(longer, embeds_KLD[0], prompt_PD)
    return _padded(longer, embeds_KLD, prompt_PD)


def _packed(inputs: dict[str, Any], embeds_TD: Tensor, prompt_PD: Tensor) -> tuple[dict[str, Any], Tensor]:
    boundaries, device, count = inputs["cu_seq_lens_q"].long(), embeds_TD.device, len(prompt_PD)
    rows = len(boundaries) - 1
    owner_T = torch.repeat_interleave(torch.arange(rows, device=device), boundaries.diff())
    kept_T = torch.arange(len(embeds_TD), device=device) + (owner_T + 1) * count
    steps_P = torch.arange(count, device=device)
    begins_K = boundaries[:-1] + torch.arange(rows, device=device) * count
    virtual = (begins_K[:, None] + steps_P).flatten()

    positions_T = inputs["position_ids"][0]
    first_K = positions_T.index_select(0, boundaries[:-1])
    positions = positions_T.new_empty(len(embeds_TD) + rows * count)
    positions = positions.index_copy(0, kept_T, positions_T + count)
    positions = positions.index_copy(0, virtual, (first_K[:, None] + steps_P).flatten())
    embeds = embeds_TD.new_zeros(len(positions), embeds_TD.shape[1]).index_copy(0, kept_T, embeds_TD)
    embeds = embeds.index_copy(0, virtual, prompt_PD.repeat(rows, 1))

    longer = (boundaries + torch.arange(rows + 1, device=device) * count).to(inputs["cu_seq_lens_q"].dtype)
    changed = {"inputs_embeds": embeds[None], "position_ids": positions[None]}
    changed |= {"cu_seq_lens_q": longer, "cu_seq_lens_k": longer}
    changed |= {name: inputs[name] + count for name in ("max_length_q", "max_length_k")}
    return inputs | changed, kept_T


def _padded(inputs: dict[str, Any], embeds_KLD: Tensor, prompt_PD: Tensor) -> tuple[dict[str, Any], Tensor]:
    mask_KL, count = inputs["attention_mask"], len(prompt_PD)
    rows, columns = mask_KL.shape
    first_K1 = mask_KL.argmax(dim=1, keepdim=True)
    column_L = torch.arange(columns, device=mask_KL.device)
    kept_KL = column_L + count * (column_L >= first_K1)  # pads on the left stay where they are

    column_M = torch.arange(columns + count, device=mask_KL.device)
    # Of the row [virtual tokens, given ones], what comes to stand in each column.
    source_KM = torch.where(column_M < first_K1 + count, column_M - first_K1, column_M)
    source_KM = torch.where(column_M < first_K1, column_M + count, source_KM)

    def spread(virtual_KP: Tensor, given_KL: Tensor) -> Tensor:
        return torch.cat([virtual_KP, given_KL], dim=1).gather(1, source_KM)

    both_KMD = torch.cat([prompt_PD.expand(rows, -1, -1), embeds_KLD], dim=1)
    changed = {
        "inputs_embeds": both_KMD.gather(1, source_KM[:, :, None].expand(-1, -1, both_KMD.shape[2])),
        "attention_mask": spread(mask_KL.new_ones(rows, count), mask_KL),
    }
    if "position_ids" in inputs:
        given_KL = inputs["position_ids"].expand(rows, -1)
        starts_K1 = given_KL.gather(1, first_K1)
        steps_KP = starts_K1 + torch.arange(count, device=mask_KL.device)
        changed["position_ids"] = spread(steps_KP, given_KL + count * mask_KL)
    kept = kept_KL + torch.arange(rows, device=mask_KL.device)[:, None] * (columns + count)
    return inputs | changed, kept.flatten()
