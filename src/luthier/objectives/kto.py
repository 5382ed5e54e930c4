"""Kahneman-Tversky optimization: single answers with a thumb up or down, and no pairs.

    L = Σ_k w_k λ_k · (1 - σ(s_k (β r_k - β z)));   z = max(0, mean over rows of r'_k);   count = Σ_k w_k

with r an answer's log-ratio to the reference; s_k = 1 and λ_k = `desirable` for a liked answer, s_k = -1 and λ_k =
`undesirable` for another; r' the log-ratio of an unrelated answer to the same prompt. z, an estimate of how far the
model is from its reference, gets no gradient. References: Ethayarajh et al. 2024 (arXiv 2402.01306), equations 7 and 8.

z is a mean over the whole batch, so rows are coupled, and the engine splits a batch at the log-ratios
(``engine/coupled.py``). The unrelated answer of a row is that of the next row with another prompt; the paper shifts
answers within a batch. A pair of answers is two rows. Held-out rows are judged with one z of all.

Needs: token logits and a reference. Relations: `dpo` for pairs. At step 0 every r is 0, and L is λ / 2 a row.

| features | |
|---|---|
| input_ids, lengths | prompt with answer, and the same prompt with an unrelated one (where there is any), end to end |
| liked | whether the thumb is up |

Axes: K rows, N supervised tokens; KN: what `vectors` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from luthier.data.lengths import sequences
from luthier.models.backbone import Backbone
from luthier.objectives.coupled import Coupled
from luthier.objectives.likelihood import lay_out_answers, per_sequence, token_log_probabilities
from luthier.objectives.preference import REFERENCE, PreferenceObjective, WithReference
from luthier.types import Batch, Example, Features, LossTerms

OTHER = "other."


class Options(WithReference):
    desirable: float = Field(1.0, gt=0, description="weight of liked answers")
    undesirable: float = Field(
        1.0, gt=0, description="weight of the others; with many more of one kind, weigh it less, towards equal sums"
    )


class Objective(PreferenceObjective, Coupled):
    couples = True
    parameters: dict[str, Any] = {}

    def encode(self, example: Example) -> list[Features]:
        """A row for each answer that was judged."""
        assert self.encoder is not None
        found = []
        for row in self.encoder(example):
            sides = [side for side, turns in zip(self.sides, (example.chosen, example.rejected), strict=True) if turns]
            for side, one in zip(sides, sequences(row), strict=True):
                start = row["lengths"][0] if side == "rejected" and len(sides) > 1 else 0
                ends = [at - start for at in row["turn_ends"] if 0 <= at - start < len(one["input_ids"])]
                part = {"input_ids": one["input_ids"], "supervised": one["supervised"], "turn_ends": ends}
                part |= {"lengths": [len(one["input_ids"])], "liked": side == "chosen"}
                found.append(row | part)
        return found

    def units(self, features: Features) -> int:
        return int(any(sequences(features)[0]["supervised"]))

    def complete(self, rows: list[Features]) -> list[Features]:
        """Rows with an unrelated answer each, as long as the longest row at most; as they are where there is none."""
        longest = max((len(row["input_ids"]) for row in rows), default=0)
        prompts = [row["supervised"].index(True) for row in rows]
        asked = [tuple(row["input_ids"][:end]) for row, end in zip(rows, prompts, strict=True)]
        partners = next_other([(ids, *row.get("pictures", ())) for ids, row in zip(asked, rows, strict=True)])
        completed = []
        for at, (row, other) in enumerate(zip(rows, partners, strict=True)):
            if other is None:
                completed.append(row)
                continue
            answer = slice(prompts[other], prompts[other] + longest - prompts[at])
            ids = [*asked[at], *rows[other]["input_ids"][answer]]
            supervised = [False] * prompts[at] + rows[other]["supervised"][answer]
            both = {"input_ids": row["input_ids"] + ids, "supervised": row["supervised"] + supervised}
            completed.append(row | both | {"lengths": [len(row["input_ids"]), len(ids)]})
        return completed

    def collate(self, rows: list[Features]) -> Batch:
        """Own answers as ``lay_out_answers``; unrelated ones beside them, under names of their own."""
        own = [_alone(row, 0) for row in rows]
        other = [_alone(row, 1) for row in rows if len(row["lengths"]) > 1]
        tensors = lay_out_answers(self.backbone, own)
        if other:
            tensors |= {f"{OTHER}{name}": tensor for name, tensor in lay_out_answers(self.backbone, other).items()}
        if all(REFERENCE in row for row in rows):
            for prefix, some in (("", own), (OTHER, other)):
                if some:
                    tensors[f"{prefix}{REFERENCE}"] = torch.cat([torch.as_tensor(row[REFERENCE]) for row in some])
        return Batch(tensors, [row["row"] for row in rows], sum(len(row["input_ids"]) for row in rows))

    def vectors(self, backbone: Backbone, batch: Batch) -> Tensor:
        """(K, 3): the log-ratio of each row's answer, with its graph; that of the unrelated one (NaN: none); log π."""
        own_K, logs_K = self._ratios(backbone, batch)
        others_K = torch.full_like(own_K, torch.nan).detach()
        tensors = {name.removeprefix(OTHER): t for name, t in batch.tensors.items() if name.startswith(OTHER)}
        if tensors:
            with torch.no_grad():
                others_K, _ = self._ratios(backbone, Batch(tensors, batch.rows))
        return torch.stack([own_K, others_K, logs_K.detach()], 1)

    def _ratios(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor]:
        """(K,) log-ratios, and log π."""
        reference_N = self._reference(batch)
        logs_N = token_log_probabilities(backbone, batch.tensors, backbone.hidden(batch))
        return per_sequence(logs_N - reference_N, batch["counts"]), per_sequence(logs_N, batch["counts"])

    def row_losses(self, ratios_KN: Tensor, rows: Sequence[Features]) -> tuple[Tensor, Tensor]:
        """(K,) losses, and z, of what ``vectors`` gives."""
        known = ratios_KN[:, 1].detach()
        known = known[~known.isnan()]
        z = known.mean().clamp(min=0) if len(known) else ratios_KN.new_zeros(())
        liked_K = torch.tensor([row["liked"] for row in rows], device=ratios_KN.device)
        signed_K = torch.where(liked_K, 1.0, -1.0) * (ratios_KN[:, 0] - z)
        weight_K = torch.where(liked_K, self.options.desirable, self.options.undesirable)
        return weight_K * (1 - torch.sigmoid(self.options.beta * signed_K)), z

    def coupled_loss(self, vectors_UD: Tensor, rows: Sequence[Features]) -> LossTerms:
        losses_K, z = self.row_losses(vectors_UD, rows)
        weights_K = torch.tensor([float(row["weight"]) for row in rows], device=vectors_UD.device)
        count = float(weights_K.sum())
        rewards = (self.options.beta * vectors_UD[:, 0].detach()).tolist()
        report = {"kl": (float(z) * count, count)}
        for name, liked in (("chosen_reward", True), ("rejected_reward", False)):
            some = [reward for reward, row in zip(rewards, rows, strict=True) if row["liked"] == liked]
            report |= {name: (sum(some), float(len(some)))} if some else {}
        return LossTerms((losses_K * weights_K).sum(), count, report)

    def outputs(self, backbone: Backbone, batch: Batch) -> list[Any]:
        """Both log-ratios of each row, as ``settle`` takes them."""
        return self.vectors(backbone, batch).tolist()

    def settle(self, outputs: Sequence[Any], rows: Sequence[Features]) -> list[dict[str, float]]:
        """Per row: its loss, its reward (``chosen`` or ``rejected``), -log π (``nll``), and z of all rows as ``kl``."""
        ratios_KN = torch.tensor(outputs, dtype=torch.float32)
        losses_K, z = self.row_losses(ratios_KN, rows)
        told = []
        for loss, (ratio, _, log_p), row in zip(losses_K.tolist(), ratios_KN.tolist(), rows, strict=True):
            side = "chosen" if row["liked"] else "rejected"
            told.append(
                {"loss": loss, side: self.options.beta * ratio, "nll": -log_p, "kl": float(z), "tokens": 1.0}
            )  # fmt: skip
        return told


def _alone(row: Features, at: int) -> Features:
    """One of a row's sequences as a row of its own, with its part of the reference."""
    several = sequences(row)
    own = {**several[at], "lengths": [len(several[at]["input_ids"])]}
    if REFERENCE in row:
        cut = sum(several[0]["supervised"][1:])
        own[REFERENCE] = torch.as_tensor(row[REFERENCE])[slice(cut) if at == 0 else slice(cut, None)]
    return own


def next_other(keys: Sequence[Any]) -> list[int | None]:
    """For each key the place of the next one that differs, around the end; None where all are alike."""
    found: list[int | None] = [None] * len(keys)
    for at in range(2 * len(keys) - 1, -1, -1):
        here, after = at % len(keys), (at + 1) % len(keys)
        found[here] = after if keys[after] != keys[here] else found[after]
    return found
