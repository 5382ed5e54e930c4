"""Cross-entropy over tags, one tag for each labelled word, read at one of its tokens.

    L = Σ_n w_n · -log softmax(z_n)[y_n]      over the labelled words n that have a token;  count = Σ_n w_n

References: Devlin et al. 2019 (arXiv 1810.04805), section 5.3: the first sub-token of a word stands for it. Needs: tag
logits (N, C) at chosen positions. Rows are independent.

| features | |
|---|---|
| input_ids | ids of the row, or of a window of it |
| words | indices of the words that this window answers for |
| at | the token at which each is read; None where it has none |
| targets | the tag of each, 0..C-1; None for the whole row where it is not labelled |

Relations: `classification` gives a whole row one class, `next_token` predicts a token at every position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.models.backbone import Backbone
from luthier.options import Options as Section
from luthier.types import Batch, Example, Features, LossTerms

# Axes: N words that are read, C tags.


class Options(Section):
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all tags")


class Objective:
    needs = "tag_logits"
    couples = False

    def __init__(self, options: Options, backbone: Backbone, encoder: Callable[[Example], list[Features]]):
        """``encoder(example) -> [features]`` is the task's: one for each window."""
        self.options, self.backbone, self.encoder = options, backbone, encoder

    def encode(self, example: Example) -> list[Features]:
        return self.encoder(example)

    def units(self, features: Features) -> int:
        """How many words of a row are supervised."""
        return sum(at is not None for at in features["at"]) if features["targets"] is not None else 0

    def collate(self, rows: list[Features]) -> Batch:
        """Rows ``[a B c D]`` (capitals are read) with tags 2 and 0, and ``[E]`` with tag 1, packed:

        input_ids [[a B c D E]]   read_at [1 3 4]   owner [0 0 1]   targets [2 0 1]   weights [1 1 1]
        """
        tensors = self.backbone.lay_out(rows)
        read = [(k, word, at) for k, row in enumerate(rows) for word, at in enumerate(row["at"]) if at is not None]
        starts = tensors["starts"].tolist()
        tensors["read_at"] = torch.tensor([starts[k] + at for k, _, at in read], dtype=torch.long)
        tensors["owner"] = torch.tensor([k for k, _, _ in read], dtype=torch.long)
        tensors["word"] = torch.tensor([rows[k]["words"][word] for k, word, _ in read], dtype=torch.long)
        if all(row["targets"] is not None for row in rows):
            tensors["targets"] = torch.tensor([rows[k]["targets"][word] for k, word, _ in read], dtype=torch.long)
        tensors["weights"] = torch.tensor([rows[k]["weight"] for k, _, _ in read], dtype=torch.float32)
        return Batch(tensors, [row["row"] for row in rows], int(tensors["lengths"].sum()))

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        losses_N = F.cross_entropy(
            self._logits(backbone, batch), batch["targets"], reduction="none",
            label_smoothing=self.options.label_smoothing,
        )  # fmt: skip
        return LossTerms((losses_N * batch["weights"]).sum(), float(batch["weights"].sum()))

    def _logits(self, backbone: Backbone, batch: Batch) -> Tensor:
        """(N, C), in fp32."""
        return backbone.position_logits(backbone.hidden(batch).index_select(0, batch["read_at"])).float()

    def mean_loss(self, outputs: list[dict[str, Any]], rows: list[Features]) -> float:
        """Nats per word, from outputs made before."""
        return sum(row["nll"] for row in outputs) / max(1, sum(len(row["tags"]) for row in outputs))

    def outputs(self, backbone: Backbone, batch: Batch) -> list[dict[str, Any]]:
        """Per row: the words that are read, the best tag of each and how probable it is, and their summed loss."""
        found: list[dict[str, Any]] = [
            {"row": row, "words": [], "tags": [], "scores": [], "nll": 0.0} for row in batch.rows
        ]
        if not len(batch["read_at"]):
            return found
        logits_NC = self._logits(backbone, batch)
        probable_N, tags_N = logits_NC.softmax(-1).max(-1)
        told = (batch["owner"].tolist(), batch["word"].tolist(), tags_N.tolist(), probable_N.tolist())
        for k, word, tag, score in zip(*told, strict=True):
            found[k]["words"].append(word)
            found[k]["tags"].append(tag)
            found[k]["scores"].append(score)
        if "targets" in batch.tensors:
            losses_N = F.cross_entropy(logits_NC, batch["targets"], reduction="none")
            for k, loss in zip(batch["owner"].tolist(), losses_N.tolist(), strict=True):
                found[k]["nll"] += loss
        return found
