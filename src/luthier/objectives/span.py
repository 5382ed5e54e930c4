"""Where an answer begins and ends: cross-entropy of both places over the tokens of a row.

    L = Σ_k w_k · ½ (-log softmax(s_k)[start_k] - log softmax(e_k)[end_k]);   count = Σ_k w_k

over rows k, each a window of a question with a part of its context; s_k and e_k are the logits of its real tokens. A
window that does not hold the answer points at its first token. References: Devlin et al. 2019 (arXiv 1810.04805),
sections 4.2 and 4.3. Needs: span logits (N, 2). Rows are independent.

| features | |
|---|---|
| input_ids | question and a part of the context |
| target | (start, end), positions of tokens; (0, 0): not here; None where it is not labelled |
| offsets | for each token its characters [start, end) of the context; None for other tokens |
| longest | the most tokens of an answer |

Relations: `tags` gives each word a tag of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.models.backbone import Backbone
from luthier.options import Options as Section
from luthier.types import Batch, Example, Features, LossTerms

# Axes: K rows, L longest row, N candidates of a row.

BEST = 20  # candidates of a window that are kept


class Options(Section):
    pass


class Objective:
    needs = "span_logits"
    couples = False

    def __init__(self, options: Options, backbone: Backbone, encoder: Callable[[Example], list[Features]]):
        """``encoder(example) -> [features]`` is the task's: one for each window."""
        self.options, self.backbone, self.encoder = options, backbone, encoder

    def encode(self, example: Example) -> list[Features]:
        return self.encoder(example)

    def units(self, features: Features) -> int:
        return int(features["target"] is not None)

    def collate(self, rows: list[Features]) -> Batch:
        """Rows ``[q c c]`` with the answer at token 2, and ``[q c]`` without it:

        targets [[2 2] [0 0]]   offsets [[-1 0 4] [-1 0 -1]] and their ends   longest [30 30]
        """
        tensors = self.backbone.lay_out(rows)
        if all(row["target"] is not None for row in rows):
            tensors["targets"] = torch.tensor([row["target"] for row in rows])
        most = max(len(row["input_ids"]) for row in rows)
        offsets_KL2 = torch.full((len(rows), most, 2), -1)
        for k, row in enumerate(rows):
            for at, place in enumerate(row["offsets"]):
                if place is not None:
                    offsets_KL2[k, at] = torch.tensor(place)
        tensors["offsets"] = offsets_KL2
        tensors["longest"] = torch.tensor([row["longest"] for row in rows])
        tensors["weights"] = torch.tensor([row["weight"] for row in rows], dtype=torch.float32)
        return Batch(tensors, [row["row"] for row in rows], int(tensors["lengths"].sum()))

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        losses_K = _losses(self._logits(backbone, batch), batch["targets"])
        return LossTerms((losses_K * batch["weights"]).sum(), float(batch["weights"].sum()))

    def _logits(self, backbone: Backbone, batch: Batch) -> Tensor:
        """(2, K, L) of start and end, fp32, -inf where a row has no token."""
        logits_T2 = backbone.position_logits(backbone.hidden(batch)).float()
        starts_K, lengths_K = batch["starts"], batch["lengths"]
        columns_L = torch.arange(int(lengths_K.max()), device=logits_T2.device)
        real_KL = columns_L < lengths_K[:, None]
        at_KL = torch.where(real_KL, starts_K[:, None] + columns_L, starts_K[:, None])
        return logits_T2[at_KL].masked_fill(~real_KL[..., None], -torch.inf).permute(2, 0, 1)

    def mean_loss(self, outputs: list[dict[str, Any]], rows: list[Features]) -> float:
        """Nats per window, from outputs made before."""
        return sum(row["nll"] for row in outputs) / max(1, len(outputs))

    def outputs(self, backbone: Backbone, batch: Batch) -> list[dict[str, Any]]:
        """Per row: the score of ``null`` (its first token as start and end), the best ``spans`` (score, and characters
        of the context from and to) and the loss, ``nll``."""
        logits_2KL = self._logits(backbone, batch)
        losses_K = _losses(logits_2KL, batch["targets"]) if "targets" in batch.tensors else None
        found = []
        for k, row in enumerate(batch.rows):
            start_L, end_L = logits_2KL[:, k]
            told: dict[str, Any] = {"row": row, "null": float(start_L[0] + end_L[0]), "nll": 0.0}
            told["spans"] = best_spans(start_L, end_L, batch["offsets"][k], int(batch["longest"][k]))
            if losses_K is not None:
                told["nll"] = float(losses_K[k])
            found.append(told)
        return found


def _losses(logits_2KL: Tensor, targets_K2: Tensor) -> Tensor:
    start_K, end_K = (F.cross_entropy(z, t, reduction="none") for z, t in zip(logits_2KL, targets_K2.T, strict=True))
    return (start_K + end_K) / 2


def best_spans(start_L: Tensor, end_L: Tensor, offsets_L2: Tensor, longest: int) -> list[tuple[float, int, int]]:
    """(start + end, first character, after the last) of the best ``BEST`` spans inside the context, best first.

    A span ends at or after its start and has at most ``longest`` tokens.
    """
    inside_L = offsets_L2[: len(start_L), 0] >= 0
    starts_N = start_L.masked_fill(~inside_L, -torch.inf).topk(min(BEST, len(start_L))).indices
    ends_N = end_L.masked_fill(~inside_L, -torch.inf).topk(min(BEST, len(end_L))).indices
    scores_NN = start_L[starts_N][:, None] + end_L[ends_N][None]
    length_NN = ends_N[None] - starts_N[:, None]
    fits_NN = (length_NN >= 0) & (length_NN < longest) & inside_L[starts_N][:, None] & inside_L[ends_N][None]
    scores_NN = scores_NN.masked_fill(~fits_NN, -torch.inf)
    order = scores_NN.flatten().topk(min(BEST, scores_NN.numel())).indices.tolist()
    found = []
    for place in order:
        i, j = divmod(place, len(ends_N))
        if bool(fits_NN[i, j]):
            first, last = int(offsets_L2[starts_N[i], 0]), int(offsets_L2[ends_N[j], 1])
            found.append((float(scores_NN[i, j]), first, last))
    return found
