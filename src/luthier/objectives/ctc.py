"""Connectionist temporal classification: the letters of a transcript, without knowing at which frame each is said.

    L = Σ_k w_k · -log Σ_{paths π that collapse to y_k} Π_t p(π_t | frame t);   count = Σ_k w_k · |y_k|

so that the mean is in nats a letter. References: Graves et al. 2006 (ICML), equations 6 to 15. Needs: logits of frames,
with a blank among the letters (transformers: the padding token). Rows are independent.

| features | |
|---|---|
| input_ids | as many as the row has frames, read by nothing |
| labels | the ids of its letters, without blanks |

A row with fewer frames than letters, and blanks between two of a kind, has no path: such rows are refused before.
Relations: `next_token` writes a transcript token by token, with a decoder.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.evaluate.ctc import collapse, log_softmax
from luthier.models.audio.hearing import HearingBackbone
from luthier.options import Options as Section
from luthier.types import Batch, Example, Features, LossTerms


class Options(Section):
    pass


class Objective:
    needs = "frame_logits"
    couples = False

    def __init__(self, options: Options, backbone: HearingBackbone, encoder: Any):
        """``encoder(example) -> [features]`` is the task's."""
        self.backbone, self.encoder = backbone, encoder

    def encode(self, example: Example) -> list[Features]:
        return self.encoder(example)

    def units(self, features: Features) -> int:
        """How many letters a row teaches."""
        return len(features["labels"])

    def collate(self, rows: list[Features]) -> Batch:
        """Rows of 3 and 2 frames that say ``[a b]`` and ``[c]``:

        input_ids [[0 0 0] [0 0 0]]   lengths [3 2]   labels [a b c]   label_lengths [2 1]   weights [1 1]
        """
        tensors = self.backbone.lay_out(rows)
        tensors["labels"] = torch.tensor([label for row in rows for label in row["labels"]], dtype=torch.long)
        tensors["label_lengths"] = torch.tensor([len(row["labels"]) for row in rows])
        tensors["weights"] = torch.tensor([row["weight"] for row in rows], dtype=torch.float32)
        return Batch(tensors, [row["row"] for row in rows], int(tensors["lengths"].sum()))

    def loss(self, backbone: HearingBackbone, batch: Batch) -> LossTerms:
        logs_KLV = log_softmax(backbone, backbone.hidden(batch), batch)
        losses_K, weights_K = self._losses(backbone, logs_KLV, batch), batch["weights"]
        return LossTerms((losses_K * weights_K).sum(), float((weights_K * batch["label_lengths"]).sum()))

    def _losses(self, backbone: HearingBackbone, logs_KLV: Tensor, batch: Batch) -> Tensor:
        """(K,) in nats."""
        return F.ctc_loss(
            logs_KLV.transpose(0, 1), batch["labels"], batch["lengths"], batch["label_lengths"],
            blank=backbone.blank_id, reduction="none",
        )  # fmt: skip

    def mean_loss(self, outputs: list[dict[str, Any]], rows: list[Features]) -> float:
        """Nats a letter, from outputs made before."""
        return sum(row["nll"] for row in outputs) / max(1, sum(row["letters"] for row in outputs))

    def outputs(self, backbone: HearingBackbone, batch: Batch) -> list[dict[str, Any]]:
        """Of each row: its loss where it has a transcript, its letters, and the ``ids`` on the best path."""
        logs_KLV = log_softmax(backbone, backbone.hidden(batch), batch)
        counts, lengths = batch["label_lengths"].tolist(), batch["lengths"].tolist()
        losses = self._losses(backbone, logs_KLV, batch).tolist() if any(counts) else [0.0] * len(counts)
        best_KL = logs_KLV.argmax(-1).tolist()
        return [
            {"nll": loss, "letters": count, "ids": collapse(best_KL[k][:length], backbone.blank_id)}
            for k, (loss, count, length) in enumerate(zip(losses, counts, lengths, strict=True))
        ]
