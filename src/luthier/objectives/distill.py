"""Distillation: a student learns from a teacher's distribution, beside the labels.

    L = Σ_n w_n · [α · T² · D(teacher_n, student_n) + (1 - α) · -log q(y_n)];   count = Σ_n w_n

over supervised tokens n, or over rows where the task has classes; D is one of `objectives/divergence.py`, at
temperature T, and q the student's own distribution, at temperature 1. References: Hinton et al. 2015 (arXiv
1503.02531), section 2; for sequences, token by token on given text, Kim & Rush 2016 (arXiv 1606.07947), section 3.1.
With `answers` the teacher writes the text that is learned (section 3.2 there), which needs no common vocabulary;
without a `divergence` beside it L is the cross-entropy of that text.

Departures: the text is given, never the student's own (that would be on-policy distillation: MiniLLM, GKD).

Needs: what the task's own objective needs. Rows are independent. Relations: it is `next_token` or `classification` with
a teacher; α = 0 is exactly that objective. The teacher reads rows in its own layout; its logits are made chunk by chunk
beside the student's, and never held whole. A classifier's are a few numbers a row, and may come with the row.

Axes: N supervised positions, K rows, C classes, V vocabulary, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.models.backbone import Backbone
from luthier.models.frozen import Frozen
from luthier.objectives import classification, next_token
from luthier.objectives.chunked import sum_over_chunks
from luthier.objectives.divergence import Kind, divergence
from luthier.options import Options as Section
from luthier.types import Batch, Example, Features, Finding, LossTerms, Refused

TEACHER, TEACHER_ROW = "teacher.", "teacher_row"
LOGITS = "teacher_logits"


class Options(Section):
    teacher: str | None = Field(
        None, description="a run folder, a model's folder or hub id, or `base`: the model without the method"
    )
    divergence: Kind | None = Field(None, description="default: forward; none where `answers` alone are learned")
    beta: float = Field(0.5, gt=0, lt=1, description="of `jsd`: near 0 it is like forward, near 1 like reverse")
    temperature: float = Field(2.0, gt=0, description="both distributions are softened by it")
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the divergence; the labels have the rest")
    answers: bool = Field(False, description="the teacher writes what is learned, before training begins")
    max_new_tokens: int = Field(256, gt=0, description="of an answer that the teacher writes")
    num_beams: int = Field(1, gt=0, description="of the search for an answer; 1 is greedy")

    @property
    def compares(self) -> Kind | None:
        """The divergence that is in the loss; None where only what the teacher wrote is learned."""
        return self.divergence or (None if self.answers else "forward")


class Taught:
    """What both kinds share: the teacher, and how the two parts of the loss are mixed and told."""

    needs: str
    options: Options
    teacher: Frozen | None = None
    own: Any

    def reader(self) -> Any:
        """The task's own objective, by which the teacher reads rows and is judged."""
        assert self.teacher is not None
        return self.own.Objective(self.own.Options(), self.teacher.backbone, None)

    def teacher_rows(self, rows: list[Features]) -> list[Features]:
        """Rows as the teacher reads them: its own ones, with what a row is told by, or the student's."""
        return [
            {key: row[key] for key in ("row", "target", "weight") if key in row} | row[TEACHER_ROW]
            if TEACHER_ROW in row
            else {key: value for key, value in row.items() if key not in ("hidden_LD", LOGITS)}
            for row in rows
        ]

    def beside(self, rows: list[Features]) -> dict[str, Tensor]:
        """The teacher's batch of the same rows, under names of its own."""
        batch = self.reader().collate(self.teacher_rows(rows))
        return {f"{TEACHER}{name}": tensor for name, tensor in batch.tensors.items()}

    def with_teacher_row(self, features: list[Features], example: Example) -> list[Features]:
        if self.teacher is None or self.teacher.encode is None:
            return features
        return [row | {TEACHER_ROW: self.teacher.encode(example)} for row in features]

    def mixed(self, student: Tensor, teacher: Tensor, targets: Tensor, weights: Tensor, sums: list[Tensor]) -> Tensor:
        """The loss of some positions or rows, summed; ``sums`` gets [divergence, cross-entropy] to watch."""
        options = self.options
        assert options.compares is not None
        apart = divergence(
            student, teacher, options.compares, temperature=options.temperature, beta=options.beta
        )  # fmt: skip
        cross = F.cross_entropy(student.float(), targets, reduction="none")
        parts = torch.stack([(apart * weights).sum(), (cross * weights).sum()])
        sums.append(parts.detach())
        return options.alpha * parts[0] + (1 - options.alpha) * parts[1]


def _terms(total: Tensor, count: float, sums: list[Tensor]) -> LossTerms:
    apart, cross = torch.stack(sums).sum(0).tolist() if sums else (0.0, 0.0)
    return LossTerms(total, count, {"divergence": (apart, count), "cross_entropy": (cross, count)})


def _of_teacher(batch: Batch) -> Batch:
    tensors = {name.removeprefix(TEACHER): t for name, t in batch.tensors.items() if name.startswith(TEACHER)}
    return Batch(tensors, batch.rows)


class Objective(Taught, next_token.Objective):
    """Token by token, of a model that writes."""

    own = next_token

    def __init__(self, options: Options, backbone: Backbone, encoder: Callable[[Example], list[Features]] | None):
        super().__init__(next_token.Options(), backbone, encoder)
        self.options = options

    def collate(self, rows: list[Features]) -> Batch:
        """As `next_token`, and the teacher's layout of the same rows."""
        batch = super().collate(rows)
        if self.teacher is not None and self.options.compares:
            batch.tensors |= self.beside(rows)
        return batch

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        teacher = self.teacher
        if teacher is None or not self.options.compares:
            return super().loss(backbone, batch)
        theirs = _of_teacher(batch)
        with teacher.reading() as read:  # first, so that the student's graph is not there yet
            teacher_ND = read.hidden(theirs).index_select(0, theirs["predict_at"])
        hidden_ND = backbone.hidden(batch).index_select(0, batch["predict_at"])
        sums: list[Tensor] = []

        def loss(student_nD: Tensor, teacher_nD: Tensor, targets_n: Tensor, weights_n: Tensor) -> Tensor:
            with teacher.reading() as read:
                teacher_nV = read.token_logits(teacher_nD)
            return self.mixed(backbone.token_logits(student_nD), teacher_nV, targets_n, weights_n, sums)

        head = [p for p in backbone.model.get_output_embeddings().parameters() if p.requires_grad]
        width = sum(one.model.get_output_embeddings().weight.shape[0] for one in (backbone, teacher.backbone))
        beside = (teacher_ND, batch["targets"], batch["weights"])
        total = sum_over_chunks(loss, head, hidden_ND, beside, width)
        return _terms(total, float(batch["weights"].sum()), sums)


class Classes(Taught, classification.Objective):
    """A class a row."""

    own = classification

    def encode(self, example: Example) -> list[Features]:
        return self.with_teacher_row(super().encode(example), example)

    def collate(self, rows: list[Features]) -> Batch:
        """As `classification`, and the teacher's logits (K, C), or what it reads to give them."""
        batch = super().collate(rows)
        if all(LOGITS in row for row in rows):
            batch.tensors[LOGITS] = torch.tensor([row[LOGITS] for row in rows], dtype=torch.float32)
        elif self.teacher is not None:
            batch.tensors |= self.beside(rows)
        return batch

    def row_losses(self, logits_KC: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        """Of the labels alone: what held-out rows are judged by."""
        return F.cross_entropy(logits_KC, targets, reduction="none"), 1

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        teacher_KC = self.teacher_logits(batch)
        logits_KC = backbone.sequence_logits(backbone.hidden(batch), batch).float()
        sums: list[Tensor] = []
        total = self.mixed(logits_KC, teacher_KC, batch["targets"], batch["weights"], sums)
        return _terms(total, float(batch["weights"].sum()), sums)

    def teacher_logits(self, batch: Batch) -> Tensor:
        """(K, C), in the order of the student's classes."""
        if LOGITS in batch.tensors:
            return batch[LOGITS]
        assert self.teacher is not None
        theirs = _of_teacher(batch)
        with self.teacher.reading() as read:
            logits_KC = read.sequence_logits(read.hidden(theirs), theirs).float()
        return logits_KC if self.teacher.columns is None else logits_KC[:, list(self.teacher.columns)]


KINDS: dict[str, Any] = {"next_token": Objective, "classification": Classes}


def over(own: str) -> Any:
    """The kind that teaches what a task's own objective does. Raises Refused where there is none."""
    if own not in KINDS:
        what = f"a teacher is compared in tokens or in classes of which each row has one, and this task has `{own}`"
        mend = "leave `distill:` out, or use it with chat, complete, summarize, translate or classify (one label a row)"
        raise Refused(Finding("distill.task", "distill", what, mend))
    return KINDS[own]
