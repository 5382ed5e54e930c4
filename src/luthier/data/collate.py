"""Rows of token ids laid out for a model: packed end to end, or padded.

Three ragged rows ``[5, 6, 7]``, ``[8]`` and ``[9, 4]``, with pad id 0:

    packed (filled to a multiple of 4)          padded
    input_ids    [[5, 6, 7, 8, 9, 4, 0, 0]]     [[5, 6, 7], [8, 0, 0], [9, 4, 0]]
    position_ids [[0, 1, 2, 0, 0, 1, 0, 1]]     –
    attention_mask –                            [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    cu_seq_lens  [0, 3, 4, 6, 8]                –
    starts       [0, 3, 4]                      [0, 3, 6]
    lengths      [3, 1, 2]                      [3, 1, 2]

``starts`` is where each row's first token lies once the hidden states are flattened to (T, D), so an objective finds
token t of row k at ``starts[k] + t`` in either layout. The mask comes from lengths, never from the pad token's id. The
few tokens that fill a packed row are sequences of their own, which no row sees: with them the number of distinct shapes
is small, and matmul libraries keep a compiled kernel for each shape that they meet.

Rows with ``target_ids``, for an encoder-decoder, are padded: their ``input_ids`` (K, S) and ``attention_mask`` are the
source's; ``target_ids`` (K, L), ``starts`` and ``lengths`` the target's, whose hidden states the model gives.

Axes: K rows, L longest row (or target), S longest source, T tokens (pads included where padded), D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from luthier.types import Features

MULTIPLE = 64


def lay_out(rows: Sequence[Features], layout: str, pad_id: int = 0, side: str = "right") -> dict[str, Tensor]:
    """Tensors of a batch, on the CPU. ``layout`` is "packed" or "padded"; ``side`` is where a padded row's pads go."""
    if "hidden_LD" in rows[0]:
        return _cached(rows)
    if "target_ids" in rows[0]:
        return _source_and_target(rows, pad_id)
    lengths_K = torch.tensor([len(row["input_ids"]) for row in rows])
    if layout == "packed":
        flat_T = torch.tensor([token for row in rows for token in row["input_ids"]])
        lengths = lengths_K.tolist()
        missing = -len(flat_T) % MULTIPLE
        filler = [max(lengths)] * (missing // max(lengths)) + [missing % max(lengths)] * (missing % max(lengths) > 0)
        boundaries = torch.tensor([0, *lengths, *filler]).cumsum(0)
        return {
            "input_ids": torch.nn.functional.pad(flat_T, (0, missing), value=pad_id)[None],
            "position_ids": torch.cat([torch.arange(length) for length in [*lengths, *filler]])[None],
            "cu_seq_lens": boundaries.to(torch.int32),
            "starts": boundaries[: len(rows)],
            "lengths": lengths_K,
        }
    longest = int(lengths_K.max())
    ids_KL = torch.full((len(rows), longest), pad_id)
    mask_KL = torch.zeros((len(rows), longest), dtype=torch.long)
    first_K = (longest - lengths_K) if side == "left" else torch.zeros_like(lengths_K)
    for k, (row, first, length) in enumerate(zip(rows, first_K.tolist(), lengths_K.tolist(), strict=True)):
        ids_KL[k, first : first + length] = torch.tensor(row["input_ids"])
        mask_KL[k, first : first + length] = 1
    tensors = {"input_ids": ids_KL, "attention_mask": mask_KL, "lengths": lengths_K}
    if side == "left":
        tensors["position_ids"] = (mask_KL.cumsum(1) - 1).clamp(min=0)
    return tensors | {"starts": torch.arange(len(rows)) * longest + first_K}


def _source_and_target(rows: Sequence[Features], pad_id: int) -> dict[str, Tensor]:
    source = lay_out([{"input_ids": row["input_ids"]} for row in rows], "padded", pad_id)
    target = lay_out([{"input_ids": row["target_ids"]} for row in rows], "padded", pad_id)
    source |= {"starts": target["starts"], "lengths": target["lengths"], "target_ids": target["input_ids"]}
    return source


def _cached(rows: Sequence[Features]) -> dict[str, Tensor]:
    """Rows whose hidden states were computed before: only those are laid out."""
    lengths_K = torch.tensor([len(row["hidden_LD"]) for row in rows])
    starts_K = torch.nn.functional.pad(lengths_K.cumsum(0), (1, 0))[:-1]
    return {"hidden_TD": torch.cat([row["hidden_LD"] for row in rows]), "starts": starts_K, "lengths": lengths_K}
