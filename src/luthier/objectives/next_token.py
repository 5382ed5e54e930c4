"""Next-token prediction on the supervised tokens: instruction tuning, language modelling, a target from its source.

    L = Σ_n w_n · -log p(y_n | tokens before it)      over supervised tokens n;  count = Σ_n w_n

Of an encoder-decoder the tokens before y_n are the whole source and the target up to it. References: Bengio et al.
2003; supervised fine-tuning as in Ouyang et al. 2022 (arXiv 2203.02155), section 3; Sutskever et al. 2014 (arXiv
1409.3215), equation 1. Needs: token logits of a model that writes. Rows are independent (any split of a batch gives
the same sum).

| features | of a decoder | of an encoder-decoder |
|---|---|---|
| input_ids | ids of the whole row | ids of the source |
| supervised | True where a token is a target; the first token of a row never is | – |
| target_ids | – | ids of the target, all supervised |

Relations: `classification` reads one position of a row and predicts a class.
"""

from __future__ import annotations

from typing import Any

import torch

from luthier.models.backbone import Backbone
from luthier.objectives.chunked import cross_entropy_sum
from luthier.options import Options as Section
from luthier.types import Batch, Example, Features, LossTerms


class Options(Section):
    pass


class Objective:
    needs = "token_logits"
    couples = False

    def __init__(self, options: Options, backbone: Backbone, encoder: Any):
        """``encoder(example) -> [features]`` is the task's: a conversation and a text differ only there."""
        self.backbone, self.encoder = backbone, encoder

    def encode(self, example: Example) -> list[Features]:
        return self.encoder(example)

    def units(self, features: Features) -> int:
        """How many tokens of a row are supervised."""
        return len(predicted(features))

    def collate(self, rows: list[Features]) -> Batch:
        """Rows ``[a b C D]`` and ``[e F]`` (capitals supervised), packed:

            input_ids [[a b C D e F]]   predict_at [1 2 4]   targets [C D F]   weights [1 1 1]

        Source ``[a b]`` with target ``[C D]`` and source ``[e]`` with target ``[F]``:

            input_ids [[a b] [e 0]]   target_ids [[C D] [F 0]]   predict_at [0 1 2]   targets [C D F]
        """
        tensors = self.backbone.lay_out(rows)
        at, targets, weights = [], [], []
        for start, row in zip(tensors["starts"].tolist(), rows, strict=True):
            for position, token in predicted(row):
                at.append(start + position)
                targets.append(token)
                weights.append(row["weight"])
        tensors |= {
            "predict_at": torch.tensor(at, dtype=torch.long),
            "targets": torch.tensor(targets, dtype=torch.long),
        }
        tensors["weights"] = torch.tensor(weights, dtype=torch.float32)
        tokens = sum(len(row["input_ids"]) + len(row.get("target_ids", ())) for row in rows)
        return Batch(tensors, [row["row"] for row in rows], tokens)

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        hidden_ND = backbone.hidden(batch).index_select(0, batch["predict_at"])
        head = [p for p in backbone.model.get_output_embeddings().parameters() if p.requires_grad]
        vocabulary = backbone.model.get_output_embeddings().weight.shape[0]
        total = cross_entropy_sum(
            backbone.token_logits, head, hidden_ND, batch["targets"], batch["weights"], vocabulary
        )
        return LossTerms(total, float(batch["weights"].sum()))

    def mean_loss(self, outputs: list[dict[str, float]], rows: list[Features]) -> float:
        """Nats per supervised token, from outputs made before."""
        return sum(row["nll"] for row in outputs) / max(1, sum(row["tokens"] for row in outputs))

    def outputs(self, backbone: Backbone, batch: Batch) -> list[dict[str, float]]:
        """Per row: summed negative log-likelihood, supervised tokens, and how many of them the argmax gets right."""
        hidden_ND = backbone.hidden(batch).index_select(0, batch["predict_at"])
        results = [{"nll": 0.0, "tokens": 0, "right": 0} for _ in batch.rows]
        owner = torch.bucketize(batch["predict_at"], batch["starts"], right=True) - 1
        size = max(16, 2**24 // backbone.model.get_output_embeddings().weight.shape[0])
        for hidden, targets, rows in zip(*(x.split(size) for x in (hidden_ND, batch["targets"], owner)), strict=True):
            if not len(hidden):
                continue
            logits_NV = backbone.token_logits(hidden).float()
            nll = torch.nn.functional.cross_entropy(logits_NV, targets, reduction="none")
            right = logits_NV.argmax(-1) == targets
            for row, loss, hit in zip(rows.tolist(), nll.tolist(), right.tolist(), strict=True):
                results[row]["nll"] += loss
                results[row]["tokens"] += 1
                results[row]["right"] += hit
        return results


def predicted(row: Features) -> list[tuple[int, int]]:
    """(position, token) of each supervised token: the position of the hidden state that predicts it.

    A decoder predicts token t at t-1: the one shift is here. An encoder-decoder's decoder is fed the target shifted
    right, so that it predicts token t at t.
    """
    if "target_ids" in row:
        return list(enumerate(row["target_ids"]))
    ids, supervised = row["input_ids"], row["supervised"]
    return [(t - 1, ids[t]) for t in range(1, len(ids)) if supervised[t]]
