"""Sequences that begin alike, laid out so that their beginning is computed once.

Two rows of two sequences each, ``[a b C | a b D E]`` and ``[f G | h I]``:

    input_ids    [[a b C D E f G h I]]          the beginning ``a b``, what follows it twice, then what begins unlike
    position_ids [[0 1 2 2 3 0 1 0 1]]          as if each sequence stood alone
    cu_seq_lens  [0 2 3 5 7 9]
    begins       [-1 0 0 -1 -1]                 the segment that a segment sees as well: its beginning; -1 for none

and of each sequence the places of its tokens: [0 1 2], [0 1 3 4], [5 6], [7 8].

Axes: K segments, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from luthier.data.collate import MULTIPLE


def common(sequences: Sequence[list[int]]) -> int:
    """How many tokens all begin with; each keeps one token of its own at least."""
    shortest = min(map(len, sequences)) - 1
    return next((t for t in range(shortest) if len({ids[t] for ids in sequences}) > 1), max(0, shortest))


def lay_out_branches(rows: Sequence[list[list[int]]], pad_id: int = 0) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Tensors of rows of one or several sequences, on the CPU, and the places of each sequence's tokens."""
    segments: list[tuple[int, list[int], int]] = []  # the first position, its ids, its beginning
    parts: list[list[int]] = []  # the segments of each sequence
    for sequences in rows:
        shared, beginning = common(sequences) if len(sequences) > 1 else 0, -1
        if shared:
            beginning = len(segments)
            segments.append((0, sequences[0][:shared], -1))
        for ids in sequences:
            parts.append([beginning, len(segments)] if shared else [len(segments)])
            segments.append((shared, ids[shared:], beginning))
    missing = -sum(len(ids) for _, ids, _ in segments) % MULTIPLE
    if missing:
        segments.append((0, [pad_id] * missing, -1))
    starts = [0, *accumulate(len(ids) for _, ids, _ in segments)]
    places = [[place for at in told for place in range(starts[at], starts[at + 1])] for told in parts]
    tensors = {
        "input_ids": torch.tensor([token for _, ids, _ in segments for token in ids])[None],
        "position_ids": torch.cat([torch.arange(first, first + len(ids)) for first, ids, _ in segments])[None],
        "cu_seq_lens": torch.tensor(starts, dtype=torch.int32),
        "begins": torch.tensor([beginning for _, _, beginning in segments]),
    }
    return tensors, places
