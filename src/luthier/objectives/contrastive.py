"""Contrastive text embeddings: vectors of texts that belong together are alike, those of others are not.

| rows | `loss` | L |
|---|---|---|
| query, positive, negatives | infonce | Σ_k w_k · -log softmax_c(cos(q_k, c) / τ)[positive of k]; count Σ w |
| two texts, a score | cosent | n · log(1 + Σ_{s_i > s_j} exp((cos_j - cos_i) / τ)) of a batch of n; count n |
| two texts, a score from -1 to 1 | mse | Σ_k w_k · (cos_k - s_k)²; count Σ w |

The candidates c of infonce are all positives and all negatives of the batch; a candidate with the content of a positive
of the same query is no negative of it, nor is the query's own text. With `sizes` L is summed over prefixes of these
sizes of every vector, each at length 1 again (Kusupati et al. 2022, arXiv 2205.13147, equation 1, weights 1).

References: van den Oord et al. 2018 (arXiv 1807.03748), equation 4; Henderson et al. 2017 (arXiv 1705.00652), section
4.4; Huang et al. 2024 (CoSENT). The learned temperature is CLIP's (Radford et al. 2021, arXiv 2103.00020, section 2.5):
ln(1/τ) trains, and 1/τ is at most 100. Needs: hidden states. Rows are coupled: each is a negative of the others, so the
engine caches the gradient of the vectors (``engine/coupled.py``).

| features | |
|---|---|
| input_ids, lengths | the ids of the row's texts, end to end, and how long each is: query, positive, negatives |
| keys | a number for each text, equal for equal contents |
| score | of a scored pair |

Axes: K rows, U texts of a batch, C candidates, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from luthier.data.lengths import split
from luthier.evaluate.retrieval import settle_ranked, settle_scored
from luthier.models.backbone import Backbone
from luthier.models.pooling import pool, pooling_of
from luthier.objectives.coupled import Coupled
from luthier.objectives.similarity import cosent, info_nce, not_negative, shortened
from luthier.options import Options as Section
from luthier.types import Batch, Example, Features, Finding, LossTerms, Refused

HIGHEST_SCALE = 100.0


class Options(Section):
    loss: Literal["infonce", "cosent", "mse"] | None = Field(
        None, description="default: infonce; cosent where pairs have a score"
    )
    temperature: float = Field(0.05, gt=0, description="similarities are divided by it")
    learn_temperature: bool = Field(False, description="it trains with the rest, and is never below 0.01")
    symmetric: bool = Field(False, description="infonce: also each positive among the queries")
    sizes: list[int] = Field(
        default_factory=list, description="matryoshka: prefixes of the vectors that must serve alone, e.g. [384, 128]"
    )
    pooling: Literal["mean", "first", "last"] | None = Field(
        None, description="of hidden states to a vector; default: the model's own; mean, last where it is causal"
    )
    normalize: bool = Field(True, description="vectors have length 1: their product is the cosine")


class Objective(Coupled):
    needs = "hidden"

    def __init__(self, options: Options, backbone: Backbone, encoder: Any):
        """``encoder(example) -> [features]`` is the task's. Raises Refused for what gives no vector of a text."""
        self.options, self.backbone, self.encoder = options, backbone, encoder
        if backbone.encoder_decoder:
            what = f"{backbone.name} is an encoder-decoder, whose encoder alone would train"
            mend = "choose an encoder (such as `starter:minilm`) or a decoder"
            raise Refused(Finding("model.encoder-decoder", "model.name", what, mend))
        if wide := [size for size in options.sizes if not 0 < size <= backbone.width]:
            what = f"the vectors of {backbone.name} have {backbone.width} numbers: a prefix can't have {wide[0]}"
            raise Refused(Finding("recipe.value", "contrastive.sizes", what, f"give sizes up to {backbone.width}"))
        if not backbone.reads_text:
            what = f"{backbone.name} reads no text, and gives no vector of one"
            mend = "choose an encoder of text; pictures with texts are `task: match`, classes of pictures `classify`"
            raise Refused(Finding("model.no-text", "model.name", what, mend))
        self.pooling = options.pooling or pooling_of(backbone)
        self.parameters: dict[str, nn.Parameter] = {}
        if options.learn_temperature:
            start = torch.tensor(-math.log(options.temperature), device=backbone.device)
            self.parameters["logit_scale"] = nn.Parameter(start)

    def encode(self, example: Example) -> list[Features]:
        several = self.encoder(example)
        for features in several:
            if len(features["lengths"]) > 1:
                self._check(features, example)
        return several

    def _check(self, features: Features, example: Example) -> None:
        loss, scored = self._loss(features), "score" in features
        if scored != (loss != "infonce"):
            what = f"`{loss}` learns from pairs {'with' if not scored else 'without'} a score, and these have " + (
                "one" if scored else "none"
            )
            mend = "leave `contrastive.loss` out: it is chosen by the rows"
            raise Refused(Finding("recipe.combination", "contrastive.loss", what, mend))
        if loss == "mse" and not -1 <= features["score"] <= 1:
            what = f"the score {features['score']:g} is no cosine: `mse` wants -1 to 1"
            mend = "scale the scores, or use `contrastive.loss: cosent`, which reads their order alone"
            raise Refused(Finding("data.score-range", f"{example.source}:score", what, mend))

    def _loss(self, features: Features) -> str:
        return self.options.loss or ("cosent" if "score" in features else "infonce")

    def units(self, features: Features) -> int:
        return int(len(features["lengths"]) > 1)

    def collate(self, rows: list[Features]) -> Batch:
        """Rows ``query [a b], positive [c]`` and ``query [d], positive [e f], negative [g]``, packed:

        input_ids [[a b c d e f g]]   starts [0 2 3 4 6]   lengths [2 1 1 2 1]   texts [2 3]
        """
        texts = [{"input_ids": ids} for row in rows for ids in split(row["input_ids"], row["lengths"])]
        tensors = self.backbone.lay_out(texts)
        tensors["texts"] = torch.tensor([len(row["lengths"]) for row in rows])
        return Batch(tensors, [row["row"] for row in rows], sum(len(row["input_ids"]) for row in rows))

    def vectors(self, backbone: Backbone, batch: Batch) -> Tensor:
        """(U, D): one for each text, row by row; fp32, of their own length."""
        return pool(backbone.hidden(batch).float(), batch, self.pooling).float()

    def coupled_loss(self, vectors_UD: Tensor, rows: Sequence[Features]) -> LossTerms:
        losses_K, weights_K = self.row_losses(vectors_UD, rows)
        count = float(weights_K.sum())
        report = {"temperature": (1 / float(torch.as_tensor(self.scale).detach()), 1.0)} if self.parameters else {}
        return LossTerms((losses_K * weights_K).sum(), count, report)

    @property
    def scale(self) -> Tensor | float:
        """1/τ. Beyond its bound a learned one still feels the gradient, so that it can come back."""
        if not self.parameters:
            return 1 / self.options.temperature
        learned = self.parameters["logit_scale"]
        return (learned + (learned.clamp(max=math.log(HIGHEST_SCALE)) - learned).detach()).exp()

    def row_losses(self, vectors_UD: Tensor, rows: Sequence[Features]) -> tuple[Tensor, Tensor]:
        """(K,) losses summed over the sizes, and (K,) weights: 0 where a row has nothing to be told from."""
        starts = [0, *accumulate(len(row["lengths"]) for row in rows)][:-1]
        weights_K = torch.tensor([float(row["weight"]) for row in rows], device=vectors_UD.device)
        loss, normalize = self._loss(rows[0]), self.options.normalize
        sizes: list[int | None] = [*self.options.sizes] or [None]
        if loss != "infonce":
            losses = [self._scored(shortened(vectors_UD, size), starts, rows, weights_K, loss) for size in sizes]
            return torch.stack(losses).sum(0), weights_K
        negatives = [start + i for start, row in zip(starts, rows, strict=True) for i in range(2, len(row["lengths"]))]
        places = [*(start + 1 for start in starts), *negatives]
        keys = [key for row in rows for key in row["keys"]]
        blocked_KC = not_negative([keys[i] for i in starts], [keys[i + 1] for i in starts], [keys[i] for i in places])
        alone_K = (~blocked_KC).sum(1) <= 1
        blocked_KC, alone_K = blocked_KC.to(vectors_UD.device), alone_K.to(vectors_UD.device)
        losses = []
        for size in sizes:
            short_UD = shortened(vectors_UD, size, normalize=normalize)
            losses.append(
                info_nce(short_UD[starts], short_UD[places], blocked_KC, self.scale, symmetric=self.options.symmetric)
            )
        return torch.stack(losses).sum(0), weights_K * ~alone_K

    def _scored(
        self, short_UD: Tensor, starts: list[int], rows: Sequence[Features], weights_K: Tensor, loss: str
    ) -> Tensor:
        similarities_K = (short_UD[starts] * short_UD[[start + 1 for start in starts]]).sum(-1)
        scores_K = torch.tensor([float(row["score"]) for row in rows], device=short_UD.device)
        if loss == "mse":
            return (similarities_K - scores_K).square()
        return cosent(similarities_K, scores_K, weights_K, self.scale).expand(len(rows))

    def outputs(self, backbone: Backbone, batch: Batch) -> list[Tensor]:
        """The vectors of each text of each row, one tensor (texts, D) a row, as ``settle`` takes them."""
        return list(self.vectors(backbone, batch).cpu().split(batch["texts"].tolist()))

    @torch.no_grad()
    def settle(self, outputs: Sequence[Tensor], rows: Sequence[Features]) -> list[dict[str, Any]]:
        """What each row shows when all rows are seen together: its loss, and how its passages rank among all.

        A row that is a text alone gives its vector.
        """
        normalize = self.options.normalize
        vectors = [shortened(found, None, normalize=normalize) for found in outputs]
        if not rows or all(len(row["lengths"]) == 1 for row in rows):
            return [{"vector": found[0].tolist()} for found in vectors]
        losses = self.judged_losses(outputs, rows)
        settle = settle_scored if "score" in rows[0] else settle_ranked
        return [row | {"loss": loss} for row, loss in zip(settle(vectors, rows), losses, strict=True)]
