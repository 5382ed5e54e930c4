"""Contrastive image-text learning: the vectors of a picture and of its text are alike, those of others are not.

| `loss` | L of a batch of K pairs, s = cos(picture, text) | count |
|---|---|---|
| infonce | Σ_k w_k · ½ (-log softmax_j(s_kj / τ)[k] - log softmax_j(s_jk / τ)[k]) | Σ w |
| sigmoid | Σ_k w_k · Σ_j -log σ(z_kj (s_jk / τ + b)), z = 1 where j = k, else -1 | Σ w |

Negatives of rows stand after the K: each picture sees the negative texts of all rows among its texts, each text the
negative pictures. A text with the content of one of the picture's own, and a picture with the pixels of one of the
text's own, are no negatives: they are left out. Of several texts that say the same of a picture (prompt templates) the
mean of their vectors, at length 1 again, is the text's (CLIP, section 3.1.4).

References: CLIP (Radford et al. 2021, arXiv 2103.00020), figure 3 and section 2.5: ln(1/τ) trains with the rest, and
1/τ is at most 100, or what the model came with where that is more; SigLIP (Zhai et al. 2023, arXiv 2303.15343),
equation 1. Needs: vectors of both. Rows are coupled, so the engine caches the gradient of the vectors
(``engine/coupled.py``).

| features | |
|---|---|
| input_ids, lengths | the ids of the row's texts, end to end, and how long each is |
| own | how many of the texts are the row's own, and make one vector; those that follow are negatives |
| pictures | the key of its picture, then of its negatives |
| keys | a number for the picture, one for the text, then for each negative, equal for equal contents |
| classes | rows of a text alone: what a picture with a label may be, also where no row has it |

Axes: K rows, T different texts, G texts that are one vector each, U vectors (of each row its picture's, its text's,
those of its negatives: texts, then pictures), C candidates, D width.
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
from luthier.models.joined.dual import DualBackbone
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
        """Rows ``picture p, text [a b]`` and ``picture p, text [c], negative [d]``:

        input_ids [[a b], [c 0], [d 0]]   pixel_values of p   picture_of [0 0]   text_of [0 1 2]   joined [1 1 1]
        order [0 2 1 3 4]   vectors [2 3]
        """
        tensors = self.backbone.lay_out(rows)
        told = [[row["own"], *[1] * (len(row["lengths"]) - row["own"])] if row["lengths"] else [] for row in rows]
        tensors["joined"] = torch.tensor([size for sizes in told for size in sizes], dtype=torch.long)
        shown, said, order = 0, sum(len(row["pictures"]) for row in rows), []
        for row, sizes in zip(rows, told, strict=True):  # pictures lie before all texts
            pictures, texts = range(shown, shown + len(row["pictures"])), range(said, said + len(sizes))
            order += [*pictures[:1], *texts, *pictures[1:]]
            shown, said = pictures.stop, texts.stop
        tensors["order"] = torch.tensor(order, dtype=torch.long)
        tensors["vectors"] = torch.tensor([len(row["pictures"]) + len(s) for row, s in zip(rows, told, strict=True)])
        return Batch(tensors, [row["row"] for row in rows], sum(len(row["input_ids"]) for row in rows))

    def vectors(self, backbone: DualBackbone, batch: Batch) -> Tensor:
        """(U, D) of length 1, fp32."""
        parts, joined_G = [], batch["joined"]
        if len(batch["picture_of"]):
            parts.append(F.normalize(backbone.picture_vectors(batch).float(), dim=-1)[batch["picture_of"]])
        if len(batch["text_of"]):
            each_TD = F.normalize(backbone.text_vectors(batch).float(), dim=-1)[batch["text_of"]]
            summed_GD = each_TD.new_zeros(len(joined_G), each_TD.shape[1])
            of_T = torch.arange(len(joined_G), device=joined_G.device).repeat_interleave(joined_G)
            parts.append(F.normalize(summed_GD.index_add(0, of_T, each_TD), dim=-1))
        return torch.cat(parts)[batch["order"]]

    def coupled_loss(self, vectors_UD: Tensor, rows: Sequence[Features]) -> LossTerms:
        losses_K, weights_K = self.row_losses(vectors_UD, rows)
        report = {"temperature": (math.exp(-float(self.scale_parameter.detach())), 1.0)} if self.parameters else {}
        return LossTerms((losses_K * weights_K).sum(), float(weights_K.sum()), report)

    def row_losses(self, vectors_UD: Tensor, rows: Sequence[Features]) -> tuple[Tensor, Tensor]:
        """(K,) losses and (K,) weights: 0 where a row has nothing to be told from."""
        keys, (own, texts, pictures) = [key for row in rows for key in row["keys"]], _places(rows)
        shown, said = ([row["keys"][at] for row in rows] for at in (0, 1))
        blocked_KC = not_negative(shown, said, said + [keys[at] for at in texts]).to(vectors_UD.device)
        back_KC = not_negative(said, shown, shown + [keys[at] for at in pictures]).to(vectors_UD.device)
        weights_K = torch.tensor([float(row["weight"]) for row in rows], device=vectors_UD.device)
        weights_K = weights_K * ((~blocked_KC).sum(1) + (~back_KC).sum(1) > 2)
        scale = self.scale_parameter.float() if self.parameters else self.scale_parameter.detach().float()
        after = [at + 1 for at in own]
        pictures_KD, texts_KD, pictures_CD = vectors_UD[own], vectors_UD[after], vectors_UD[own + pictures]
        if self.bias is None:
            losses_K = info_nce(pictures_KD, vectors_UD[after + texts], blocked_KC, scale.exp())
            return (losses_K + info_nce(texts_KD, pictures_CD, back_KC, scale.exp())) / 2, weights_K
        bias = self.bias.float() if self.parameters else self.bias.detach().float()
        losses_K = pair_sigmoid(texts_KD, pictures_CD, back_KC, scale.exp(), bias)
        apart_KC = blocked_KC[:, len(own) :]
        losses_K = losses_K + pair_sigmoid(pictures_KD, vectors_UD[texts], apart_KC, scale.exp(), bias, own=False)
        return losses_K, weights_K

    @torch.no_grad()
    def after_step(self) -> None:
        self.scale_parameter.clamp_(max=self.highest)

    def outputs(self, backbone: DualBackbone, batch: Batch) -> list[Tensor]:
        """The vectors of each row, one tensor a row, as ``settle`` takes them."""
        return list(self.vectors(backbone, batch).cpu().split(batch["vectors"].tolist()))

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
        apart = _apart(own, rows[:pairs])
        settled = settle_pairs(own, rows[:pairs], [*apart[0], *more], apart[1])
        losses = self.judged_losses(own, rows[:pairs])
        return [row | {"loss": loss} for row, loss in zip(settled, losses, strict=True)]


def _places(rows: Sequence[Features]) -> tuple[list[int], list[int], list[int]]:
    """Among the vectors of these pairs: of each row's picture, which its text's follows; of all negative texts; of all
    negative pictures."""
    own: list[int] = []
    texts: list[int] = []
    pictures: list[int] = []
    start = 0
    for row in rows:
        stop = start + len(row["keys"])
        between = stop - len(row["pictures"][1:])
        own.append(start)
        texts += range(start + 2, between)
        pictures += range(between, stop)
        start = stop
    return own, texts, pictures


def _apart(outputs: Sequence[Tensor], rows: Sequence[Features]) -> tuple[list[Tensor], list[Tensor]]:
    """The vectors of negative texts and of negative pictures that are no row's own, each content once."""
    vectors_UD, keys, (_, texts, pictures) = (
        torch.cat(list(outputs)),
        [k for r in rows for k in r["keys"]],
        _places(rows),
    )
    found: list[list[Tensor]] = []
    for at, places in ((1, texts), (0, pictures)):
        known = {row["keys"][at] for row in rows}
        different = {keys[place]: place for place in reversed(places) if keys[place] not in known}
        found.append([vectors_UD[place] for place in sorted(different.values())])
    return found[0], found[1]
