"""How likely a model finds given answers: log-probabilities of their real, supervised tokens.

Several sequences make one row, end to end, as ``lengths`` says. The prompt, pads and other sequences never count.

Axes: K rows, S sequences of all rows, N supervised tokens of all sequences, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from luthier.data.branches import common, lay_out_branches
from luthier.data.lengths import sequences, split
from luthier.models.backbone import Backbone
from luthier.objectives import chunked
from luthier.objectives.next_token import predicted
from luthier.types import Features


def supervised_tokens(row: Features) -> list[int]:
    """How many tokens of each of its sequences are supervised."""
    return [len(predicted(sequence)) for sequence in sequences(row)]


def lay_out_answers(backbone: Backbone, rows: list[Features]) -> dict[str, Tensor]:
    """Rows ``[a B | a C D]`` and ``[e F | e G]`` (capitals supervised, a bar between sequences), packed:

    input_ids [[a B a C D e F e G]]   predict_at [0 2 3 5 7]   targets [B C D F G]   counts [1 2 1 1]

    Where the model can, what the sequences of a row begin with is there once (``data/branches.py``):

    input_ids [[a B C D e F G]]       predict_at [0 0 2 4 4]
    """
    some = [sequence for row in rows for sequence in sequences(row)]
    tensors, places = lay_out_alike(backbone, begun_alike(rows), some)
    at, targets, counts = [], [], []
    for place, sequence in zip(places, some, strict=True):
        found = predicted(sequence)
        at += [place[position] for position, _ in found]
        targets += [token for _, token in found]
        counts.append(len(found))
    told = {"predict_at": at, "targets": targets, "counts": counts}
    return tensors | {name: torch.tensor(values, dtype=torch.long) for name, values in told.items()}


def begun_alike(rows: list[Features]) -> list[list[Features]]:
    """The sequences of each row; of neighbours with one ``row`` that say how much ``begins`` them, of all together."""
    found: list[list[Features]] = []
    for at, row in enumerate(rows):
        again = at > 0 and row.get("begins") and rows[at - 1].get("begins") and rows[at - 1]["row"] == row["row"]
        if again:
            found[-1] += sequences(row)
        else:
            found.append(sequences(row))
    return found


def spared(row: Features) -> int:
    """Tokens that a model which shares beginnings need not compute again for the sequences of a row."""
    ids = split(row["input_ids"], row["lengths"])
    return (len(ids) - 1) * common(ids) if len(ids) > 1 else 0


def lay_out_alike(
    backbone: Backbone, alike: list[list[Features]], some: list[Features], *, shares: bool = True
) -> tuple[dict[str, Tensor], list[Sequence[int]]]:
    """The tensors of ``some`` sequences, those that may begin ``alike`` side by side, and where their tokens lie. What
    they begin with holds all their pictures, which are there once with it."""
    ids = [[sequence["input_ids"] for sequence in parts] for parts in alike]
    if shares and backbone.shares and any(len(parts) > 1 and common(parts) for parts in ids):
        tensors, places = lay_out_branches(ids, backbone.tokenizer.pad_token_id or 0)
        return tensors | backbone.row_media([parts[0] for parts in alike]), [*places]
    tensors = backbone.lay_out(some)
    return tensors, [
        range(start, len(one["input_ids"]) + start) for start, one in zip(tensors["starts"].tolist(), some, strict=True)
    ]


def token_log_probabilities(
    backbone: Backbone, tensors: dict[str, Tensor], hidden_TD: Tensor, temperature: float = 1.0
) -> Tensor:
    """(N,) log p(token given those before it), fp32; of logits divided by ``temperature``.

    Logits are made a chunk of positions at a time. Where there are several chunks and a gradient is wanted, they are
    made anew for it, so that those of one chunk are held and never all.
    """
    hidden_ND, targets_N = hidden_TD.index_select(0, tensors["predict_at"]), tensors["targets"]
    size = max(16, chunked.CHUNK // backbone.model.get_output_embeddings().weight.shape[0])

    def log_p(hidden_nD: Tensor, targets_n: Tensor) -> Tensor:
        logits_nV = backbone.token_logits(hidden_nD).float()
        return -F.cross_entropy(logits_nV / temperature if temperature != 1 else logits_nV, targets_n, reduction="none")

    chunks = list(zip(hidden_ND.split(size), targets_N.split(size), strict=True))
    if len(chunks) == 1 or not torch.is_grad_enabled():
        parts = [log_p(*chunk) for chunk in chunks]
    else:
        parts = [checkpoint(log_p, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    return torch.cat(parts)


def per_sequence(values_N: Tensor, counts_S: Tensor) -> Tensor:
    """(S,) sums over the tokens of each sequence, in a fixed order."""
    return torch.stack([part.sum() for part in values_N.split(counts_S.tolist())])
