"""A reward model: one score an answer, so that of two answers the better one has the higher score.

    L = Σ_k w_k · [-log σ(s(chosen) - s(rejected) - μ m_k) + λ (s(chosen) + s(rejected))²];   count = Σ_k w_k

with m_k by how much the chosen answer is better, where a row tells it. References: Bradley and Terry 1952; Ouyang et
al. 2022 (arXiv 2203.02155), equation 1; the margin as in Touvron et al. 2023 (Llama 2, arXiv 2307.09288), equation 2;
λ draws scores to a mean of 0, which a difference leaves free (Eisenstein et al. 2023, arXiv 2312.09244, equation 2).

Needs: sequence logits with one output, read where the head reads: at the last real token of a decoder, the first of an
encoder. Dropout is off, as for every objective that compares two answers (``objectives/preference.py``). Rows are
independent. Relations: `dpo` fits the same preferences with the model's own likelihood as the score.

| features | |
|---|---|
| input_ids, lengths | ids end to end, and how long each sequence is: prompt with chosen, prompt with rejected; or one |
| margin | m, or None |

Axes: K rows, S sequences.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.data.lengths import sequences, split
from luthier.models.backbone import Backbone
from luthier.objectives.likelihood import lay_out_alike, spared
from luthier.objectives.preference import watched
from luthier.options import Options as Section
from luthier.types import Batch, Example, Features, Finding, LossTerms, Refused


class Options(Section):
    margin: float = Field(0.0, ge=0, description="μ, how much of a row's margin the scores are to differ by at least")
    centering: float = Field(0.01, ge=0, description="λ, weight that draws the scores to a mean of 0")


class Objective:
    needs = "sequence_logits"
    couples = False

    def __init__(self, options: Options, backbone: Backbone, encoder: Callable[[Example], list[Features]] | None):
        """``encoder(example) -> [features]`` is the task's. Raises Refused for a method that fits a classifier."""
        if backbone.needs != self.needs:
            what = "feature extraction fits a classifier to classes, and of two answers neither is one"
            raise Refused(Finding("method.combination", "method", what, "use `lora`, `full` or `freeze`"))
        self.options, self.backbone, self.encoder = options, backbone, encoder
        backbone.dropout = False

    def encode(self, example: Example) -> list[Features]:
        assert self.encoder is not None
        rows = self.encoder(example)
        return [row | {"spared": spared(row)} for row in rows] if self.shares and self.backbone.shares else rows

    @property
    def shares(self) -> bool:
        """Whether what both answers begin with may be computed once: not where a score is read from the beginning."""
        return self.backbone.reads == "last"

    def units(self, features: Features) -> int:
        """0 where nothing tells the two answers apart, once they are cut."""
        both = split(features["input_ids"], features["lengths"])
        return int(len(both) == 2 and both[0] != both[1])

    def collate(self, rows: list[Features]) -> Batch:
        """Rows ``[a b | a c d]`` and ``[e f | e g]`` (a bar between sequences), packed:

        input_ids [[a b a c d e f e g]]   starts [0 2 5 7]   lengths [2 3 2 2]   counts [2 2]   margins [0 0]

        Where the model can, what the sequences of a row begin with is there once (``data/branches.py``), and scores are
        read at the ``ends`` of the sequences:

        input_ids [[a b c d e f g]]       ends [1 3 5 6]
        """
        parts = [sequences(row) for row in rows]
        some = [sequence for alike in parts for sequence in alike]
        tensors, places = lay_out_alike(self.backbone, parts, some, shares=self.shares)
        if "starts" not in tensors:
            tensors["ends"] = torch.tensor([place[-1] for place in places])
        tensors["counts"] = torch.tensor([len(row["lengths"]) for row in rows], dtype=torch.long)
        tensors["weights"] = torch.tensor([row["weight"] for row in rows], dtype=torch.float32)
        tensors["margins"] = torch.tensor([row["margin"] or 0.0 for row in rows], dtype=torch.float32)
        return Batch(tensors, [row["row"] for row in rows], sum(len(row["input_ids"]) for row in rows))

    def scores(self, backbone: Backbone, batch: Batch) -> Tensor:
        """(S,), fp32."""
        return backbone.sequence_logits(backbone.hidden(batch), batch).float()[:, 0]

    def losses(self, scores_K2: Tensor, margins_K: Tensor) -> Tensor:
        """(K,)."""
        apart_K = scores_K2[:, 0] - scores_K2[:, 1] - self.options.margin * margins_K
        return -F.logsigmoid(apart_K) + self.options.centering * scores_K2.sum(1).square()

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        scores_K2, weights_K = self.scores(backbone, batch).view(-1, 2), batch["weights"]
        losses_K, count = self.losses(scores_K2, batch["margins"]), float(weights_K.sum())
        return LossTerms((losses_K * weights_K).sum(), count, watched(scores_K2.detach(), weights_K, count))

    def mean_loss(self, outputs: list[dict[str, float]], rows: list[Features]) -> float:
        """Per pair, from outputs made before."""
        return sum(row["loss"] for row in outputs) / max(1, len(outputs))

    def outputs(self, backbone: Backbone, batch: Batch) -> list[dict[str, float]]:
        """Per row: both scores and the loss of a pair, or the one ``score``."""
        parts = self.scores(backbone, batch).split(batch["counts"].tolist())
        told = []
        for scores_2, margin in zip(parts, batch["margins"], strict=True):
            if len(scores_2) == 1:
                told.append({"score": float(scores_2[0])})
                continue
            loss = float(self.losses(scores_2[None], margin[None])[0])
            told.append({"chosen": float(scores_2[0]), "rejected": float(scores_2[1]), "loss": loss})
        return told
