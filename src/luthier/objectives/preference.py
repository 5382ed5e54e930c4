"""What the objectives on preferred answers share: both answers of a row, read by the model and by its reference.

With π the model and π_ref the reference, an answer's log-ratio is Σ_t log π(y_t) - log π_ref(y_t) over its real tokens
(the terminator is one). The differences are taken token by token, so that they are exact zeros where the two agree, as
before the first step, and no sum of large numbers is lost.

The two likelihoods are compared with each other, and with dropout either would be another draw: the model trains
without it (``backbone.dropout``), whatever its config says. So at step 0 each log-ratio is 0, each ratio 1.

The reference is the model as it came: its log-probabilities are computed once, before the first step, and lie in the
rows (``reference``, one number a supervised token); or, where the method can be switched off, each time
(`reference: switched`). Rows are independent: any split of a batch gives the same sum.

| features | |
|---|---|
| input_ids, lengths | ids end to end, and how long each sequence is: prompt with chosen, prompt with rejected |
| supervised | True where a token is of an answer |
| reference | log-probabilities of these tokens under the reference |

Axes: K rows, S sequences (2K), N supervised tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.data.lengths import sequences
from luthier.models.backbone import Backbone
from luthier.models.fingerprint import fingerprint
from luthier.objectives.likelihood import (
    lay_out_answers,
    per_sequence,
    spared,
    supervised_tokens,
    token_log_probabilities,
)
from luthier.options import Options as Section
from luthier.types import Batch, Example, Features, Finding, LossTerms, Refused

REFERENCE = "reference"
Report = dict[str, tuple[float, float]]


class Readable(Protocol):
    """A reference that can be asked: a ``Frozen``, or one that is opened when it is."""

    def reading(self) -> AbstractContextManager[Backbone]: ...


class WithReference(Section):
    """Options of an objective that holds the model to a reference."""

    beta: float = Field(
        0.1, gt=0, description="how firmly the model is held to the reference: the reward is β log-ratio"
    )
    reference: Literal["before", "switched"] = Field(
        "before",
        description="log-probabilities of the model as it came: computed once before training and kept, or each time "
        "with the method switched off",
    )


@dataclass
class Answers:
    """Both answers of each row; column 0 is the chosen one's. ``ratios`` and ``kl`` are None without a reference."""

    logs_K2: Tensor
    """log π(answer), summed over its tokens."""
    tokens_K2: Tensor
    ratios_K2: Tensor | None
    kl_K2: Tensor | None
    """Σ_t of π/π_ref - 1 - log(π/π_ref), never below 0: of KL(π_ref ‖ π), as if the reference had written the answers
    (Schulman 2020, "Approximating KL divergence", k3)."""

    @property
    def means_K2(self) -> Tensor:
        return self.logs_K2 / self.tokens_K2


class TokenReader:
    """Reads rows for the log-probability of each supervised token: what a reference is asked."""

    def __init__(self, backbone: Backbone, temperature: float = 1.0):
        self.backbone, self.temperature = backbone, temperature

    def collate(self, rows: list[Features]) -> Batch:
        tensors = lay_out_answers(self.backbone, rows)
        owners = [k for k, row in enumerate(rows) for _ in row["lengths"]]
        tensors["owners"] = torch.tensor(owners, dtype=torch.long)
        return Batch(tensors, [row["row"] for row in rows], sum(len(row["input_ids"]) for row in rows))

    def outputs(self, backbone: Backbone, batch: Batch) -> list[Tensor]:
        """(n,) of each row, all its sequences end to end."""
        logs_N = token_log_probabilities(backbone, batch.tensors, backbone.hidden(batch), self.temperature).cpu()
        counts_K = torch.zeros(len(batch.rows), dtype=torch.long)
        counts_K.index_add_(0, batch["owners"].cpu(), batch["counts"].cpu())
        return list(logs_N.split(counts_K.tolist()))


class PreferenceObjective:
    """A subclass says what the loss of both answers is, and which reward they stand for."""

    needs = "token_logits"
    couples = False
    compares = True
    """Whether it needs a reference."""
    shares = True
    """Whether a model that can computes what the answers of a row begin with once."""
    sides = ("chosen", "rejected")

    def __init__(self, options: Any, backbone: Backbone, encoder: Callable[[Example], list[Features]] | None):
        """``encoder(example) -> [features]`` is the task's."""
        self.options, self.backbone, self.encoder = options, backbone, encoder
        self.reader = TokenReader(backbone)
        self.reference: Readable | None = None
        backbone.dropout = False

    @cached_property
    def fingerprint(self) -> str:
        """Of the model as it came, head and all: asked before a method changes it."""
        return fingerprint(self.backbone, whole=True)

    def losses(self, answers: Answers) -> Tensor:
        """(K,)."""
        raise NotImplementedError

    def rewards(self, answers: Answers) -> Tensor:
        """(K, 2): what a reward model would give each answer, up to a constant of the prompt."""
        raise NotImplementedError

    def encode(self, example: Example) -> list[Features]:
        assert self.encoder is not None
        rows = self.encoder(example)
        if any(len(row["lengths"]) < 2 for row in rows):
            what = "a row has one answer with a thumb, and this objective compares two"
            mend = "leave `objective` out (it is then `kto`), or give rows with a chosen and a rejected answer"
            raise Refused(Finding("prefer.unpaired", "objective", what, mend))
        return [row | {"spared": spared(row)} for row in rows] if self.backbone.shares else rows

    def units(self, features: Features) -> int:
        """0 where nothing tells the two answers apart, once they are cut."""
        first, second = sequences(features)
        return int(all(supervised_tokens(features)) and first["input_ids"] != second["input_ids"])

    def collate(self, rows: list[Features]) -> Batch:
        """As ``lay_out_answers``, the chosen sequence of each row before its rejected one; ``reference`` (N,)."""
        batch = self.reader.collate(rows)
        batch.tensors["weights"] = torch.tensor([row["weight"] for row in rows], dtype=torch.float32)
        if all(REFERENCE in row for row in rows):
            batch.tensors[REFERENCE] = torch.cat([torch.as_tensor(row[REFERENCE]) for row in rows])
        return batch

    def answers(self, backbone: Backbone, batch: Batch) -> Answers:
        """Raises KeyError where the rows lack a reference and none is there to ask."""
        counts_S = batch["counts"]
        reference_N = self._reference(batch) if self.compares else None
        logs_N = token_log_probabilities(backbone, batch.tensors, backbone.hidden(batch))

        def both(values_N: Tensor) -> Tensor:
            return per_sequence(values_N, counts_S).view(-1, 2)

        ratios_K2 = kl_K2 = None
        if reference_N is not None:
            ratios_N = logs_N - reference_N
            ratios_K2 = both(ratios_N)
            kl_K2 = both(torch.expm1(ratios_N.detach()) - ratios_N.detach())
        return Answers(both(logs_N), counts_S.view(-1, 2).float(), ratios_K2, kl_K2)

    def _reference(self, batch: Batch) -> Tensor:
        if self.reference is None or REFERENCE in batch.tensors:
            return batch[REFERENCE]
        with self.reference.reading() as read:
            return token_log_probabilities(read, batch.tensors, read.hidden(batch))

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        answers, weights_K = self.answers(backbone, batch), batch["weights"]
        losses_K = self.losses(answers)
        count = float(weights_K.sum())
        report = watched(self.rewards(answers).detach(), weights_K, count)
        if answers.kl_K2 is not None:
            report["kl"] = (float(answers.kl_K2.sum()), float(answers.tokens_K2.sum()))
        return LossTerms((losses_K * weights_K).sum(), count, report)

    def mean_loss(self, outputs: list[dict[str, float]], rows: list[Features]) -> float:
        """Per pair, from outputs made before."""
        return sum(row["loss"] for row in outputs) / max(1, len(outputs))

    def outputs(self, backbone: Backbone, batch: Batch) -> list[dict[str, float]]:
        """Per row: its loss, the reward of each answer, -log π of both (``nll``), their ``tokens``, and the sum ``kl``
        where there is a reference."""
        answers = self.answers(backbone, batch)
        columns = [self.losses(answers), *self.rewards(answers).T, answers.tokens_K2.sum(1), -answers.logs_K2.sum(1)]
        names = ["loss", "chosen", "rejected", "tokens", "nll"]
        if answers.kl_K2 is not None:
            columns, names = [*columns, answers.kl_K2.sum(1)], [*names, "kl"]
        return [dict(zip(names, row, strict=True)) for row in torch.stack(columns, 1).float().tolist()]


def preferred(z_K: Tensor, noise: float) -> Tensor:
    """(K,) -log σ(z), of labels of which the share ``noise`` is taken to be wrong (Mitchell 2023, "cDPO")."""
    return -(1 - noise) * F.logsigmoid(z_K) - noise * F.logsigmoid(-z_K)


def watched(rewards_K2: Tensor, weights_K: Tensor, count: float) -> Report:
    """What is watched of the rewards of both answers; equal ones are half right."""
    margins_K = rewards_K2[:, 0] - rewards_K2[:, 1]
    told = {
        "preference_accuracy": torch.sign(margins_K) / 2 + 0.5, "reward_margin": margins_K,
        "chosen_reward": rewards_K2[:, 0], "rejected_reward": rewards_K2[:, 1],
    }  # fmt: skip
    return {name: (float((value_K * weights_K).sum()), count) for name, value_K in told.items()}
