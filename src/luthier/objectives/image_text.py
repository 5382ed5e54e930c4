"""Contrastive image-text learning: the vectors of a picture and of its text are alike, those of others are not.

| `loss` | L of a batch of K pairs, s = cos(picture, text) | count |
|---|---|---|
| infonce | Σ_k w_k · ½ (-log softmax_j(s_kj / τ)[k] - log softmax_j(s_jk / τ)[k]) | Σ w |
| sigmoid | Σ_k w_k · Σ_j -log σ(z_kj (s_jk / τ + b)), z = 1 where j = k, else -1 | Σ w |

A text with the content of one of the picture's own, and a picture with the pixels of one of the text's own, are no
negatives: they are left out. Of several texts that say the same of a picture (prompt templates) the mean of their
vectors, at length 1 again, is the text's (CLIP, section 3.1.4).

References: CLIP (Radford et al. 2021, arXiv 2103.00020), figure 3 and section 2.5: ln(1/τ) trains with the rest, and
1/τ is at most 100, or what the model came with where that is more; SigLIP (Zhai et al. 2023, arXiv 2303.15343),
equation 1. Needs: vectors of both. Rows are coupled, so the engine caches the gradient of the vectors
(``engine/coupled.py``).

| features | |
|---|---|
| input_ids, lengths | the ids of the row's texts, end to end, and how long each is |
| pictures | the key of its picture |
| keys | a number for the picture and one for the text, equal for equal contents |
| classes | rows of a text alone: what a picture with a label may be, also where no row has it |

Axes: K rows, I different pictures, T different texts, U vectors (of each row its picture's, then its text's), D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from luthier.evaluate.matching import settle_pairs
from luthier.models.dual import DualBackbone
from luthier.objectives.coupled import Coupled
from luthier.objectives.similarity import info_nce, not_negative, pair_sigmoid
from luthier.options import Options as Section
from luthier.types import Batch, Example, Features, LossTerms

HIGHEST_SCALE = 100.0
START = {"infonce": (0.07, None), "sigmoid": (0.1, -10.0)}  # temperature and bias of a model that has none, by paper


class Options(Section):
    loss: Literal["infonce", "sigmoid"] | None = Field(
        None, description="default: sigmoid where the model came with a `logit_bias` (SigLIP), else infonce (CLIP)"
    )
    temperature: float | None = Field(
        None, gt=0, description="similarities are divided by it; default: the model's own; of a new one 0.07 or 0.1"
    )
    learn_temperature: bool = Field(True, description="it trains with the rest, and is never below 0.01")


class Objective(Coupled):
    needs = "vectors"

    def __init__(self, options: Options, backbone: DualBackbone, encoder: Any):
        """``encoder(example) -> [features]`` is the task's."""
        self.options, self.backbone, self.encoder = options, backbone, encoder
        bias = backbone.logit("logit_bias")
        self.loss_name = options.loss or ("infonce" if bias is None else "sigmoid")
        scale = backbone.logit("logit_scale")
        assert scale is not None
        start, least = START[self.loss_name]
        if options.temperature is not None or "logit_scale" in backbone.fresh:
            with torch.no_grad():
                scale.fill_(-math.log(options.temperature or start))
        if bias is None and least is not None:
            bias = nn.Parameter(torch.tensor(least, device=backbone.device))
        self.scale_parameter, self.bias = scale, bias if self.loss_name == "sigmoid" else None
        self.highest = max(math.log(HIGHEST_SCALE), backbone.logit_value("logit_scale"))
        own = {"logit_scale": scale} | ({} if self.bias is None else {"logit_bias": self.bias})
        self.parameters: dict[str, nn.Parameter] = own if options.learn_temperature else {}
        self.held = [p for p in (scale, bias) if p is not None and all(p is not q for q in self.parameters.values())]

    def encode(self, example: Example) -> list[Features]:
        return self.encoder(example)

    def units(self, features: Features) -> int:
        """A picture or a text alone teaches nothing."""
        return int(bool(features["pictures"] and features["lengths"]))

    def collate(self, rows: list[Features]) -> Batch:
        """Rows ``picture p, text [a b]`` and ``picture p, text [c]``:

        input_ids [[a b], [c 0]]   pixel_values of p   picture_of [0 0]   text_of [0 1]   texts [1 1]   pictured [1 1]
        """
        tensors = self.backbone.lay_out(rows)
        tensors["texts"] = torch.tensor([len(row["lengths"]) for row in rows])
        tensors["pictured"] = torch.tensor([len(row["pictures"]) for row in rows])
        return Batch(tensors, [row["row"] for row in rows], sum(len(row["input_ids"]) for row in rows))

    def vectors(self, backbone: DualBackbone, batch: Batch) -> Tensor:
        """(U, D) of length 1, fp32: of each row its picture's, then its text's."""
        parts, places = [], []
        texts_K, pictured_K = batch["texts"], batch["pictured"]
        rows_K = torch.arange(len(texts_K), device=texts_K.device)
        if len(batch["picture_of"]):
            parts.append(F.normalize(backbone.picture_vectors(batch).float(), dim=-1)[batch["picture_of"]])
            places.append(2 * rows_K[pictured_K > 0])
        if len(batch["text_of"]):
            each_TD = F.normalize(backbone.text_vectors(batch).float(), dim=-1)[batch["text_of"]]
            summed_KD = each_TD.new_zeros(len(texts_K), each_TD.shape[1])
            summed_KD = summed_KD.index_add(0, rows_K.repeat_interleave(texts_K), each_TD)
            parts.append(F.normalize(summed_KD[texts_K > 0], dim=-1))
            places.append(2 * rows_K[texts_K > 0] + 1)
        return torch.cat(parts)[torch.cat(places).argsort()]

    def coupled_loss(self, vectors_UD: Tensor, rows: Sequence[Features]) -> LossTerms:
        losses_K, weights_K = self.row_losses(vectors_UD, rows)
        report = {"temperature": (math.exp(-float(self.scale_parameter.detach())), 1.0)} if self.parameters else {}
        return LossTerms((losses_K * weights_K).sum(), float(weights_K.sum()), report)

    def row_losses(self, vectors_UD: Tensor, rows: Sequence[Features]) -> tuple[Tensor, Tensor]:
        """(K,) losses and (K,) weights: 0 where a row has nothing to be told from."""
        pictures_KD, texts_KD = vectors_UD[::2], vectors_UD[1::2]
        shown, said = ([row["keys"][at] for row in rows] for at in (0, 1))
        blocked_KK = not_negative(shown, said, said).to(vectors_UD.device)
        weights_K = torch.tensor([float(row["weight"]) for row in rows], device=vectors_UD.device)
        weights_K = weights_K * ((~blocked_KK).sum(1) > 1)
        scale = self.scale_parameter.float() if self.parameters else self.scale_parameter.detach().float()
        if self.bias is None:
            losses_K = info_nce(pictures_KD, texts_KD, blocked_KK, scale.exp(), symmetric=True)
        else:
            bias = self.bias.float() if self.parameters else self.bias.detach().float()
            losses_K = pair_sigmoid(pictures_KD, texts_KD, blocked_KK, scale.exp(), bias)
        return losses_K, weights_K

    @torch.no_grad()
    def after_step(self) -> None:
        self.scale_parameter.clamp_(max=self.highest)

    def outputs(self, backbone: DualBackbone, batch: Batch) -> list[Tensor]:
        """The vectors of each row, one tensor (1 or 2, D) a row, as ``settle`` takes them."""
        counts_K = (batch["pictured"] > 0).long() + (batch["texts"] > 0).long()
        return list(self.vectors(backbone, batch).cpu().split(counts_K.tolist()))

    def compared_with(self, rows: Sequence[Features]) -> list[Features]:
        """The classes to choose from that none of these rows has."""
        known = {row["keys"][1] for row in rows}
        classes = rows[0].get("classes", ()) if rows else ()
        return [one for one in classes if one["keys"][1] not in known]

    @torch.no_grad()
    def settle(self, outputs: Sequence[Tensor], rows: Sequence[Features]) -> list[dict[str, Any]]:
        """What each row shows when all are seen together: its loss, and how its text ranks for its picture among all
        texts, and the other way round. Pictures alone, or texts alone, give their vectors; texts alone that come
        after pairs are more to choose from."""
        pairs = sum(self.units(row) for row in rows)
        if not pairs:
            return [{"vector": found[0].tolist()} for found in outputs]
        own, more = outputs[:pairs], [found[0] for found in outputs[pairs:]]
        settled, losses = settle_pairs(own, rows[:pairs], more), self.judged_losses(own, rows[:pairs])
        return [row | {"loss": loss} for row, loss in zip(settled, losses, strict=True)]
