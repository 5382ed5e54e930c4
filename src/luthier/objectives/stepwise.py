"""A process reward model: how right each step of an answer is, read at the token at which the step ends.

    L = Σ_k w_k Σ_i -[y_i log σ(s_i) + (1 - y_i) log(1 - σ(s_i))],   count = Σ_k w_k · judged steps

with y_i from 0 (wrong) to 1 (right), and s_i the score at the last token of step i: the one with the end of the
separator after it, and of the last step the terminator. References: Lightman et al. 2023 (arXiv 2305.20050), section
2.6; Wang et al. 2024 (Math-Shepherd, arXiv 2312.08935), section 3. TRL 1.12's PRMTrainer has two logits and
cross-entropy, which is the same of their difference; it puts the last step's label on a separator after it, where here
the terminator stands.

Needs: sequence logits with one output, of a decoder: the head of a reward model, read at more than one token. The score
of an answer that is one step is that of `bradley_terry`'s model. Dropout is off, as there. Rows are independent.

| features | |
|---|---|
| input_ids, lengths | one sequence: prompt and answer |
| step_at | where each step ends |
| step_labels | y of each, None where nobody said; or None for a row without |

Axes: N steps, S sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.data.formats.steps import SEPARATOR, step_ends, step_texts
from luthier.models.backbone import Backbone
from luthier.options import Options as Section
from luthier.types import Batch, Example, Features, Finding, LossTerms, Refused


class Options(Section):
    separator: str = Field(
        SEPARATOR, min_length=1, description="what stands between two steps; by default a line's end"
    )


class Objective:
    needs = "sequence_logits"
    couples = False

    def __init__(self, options: Options, backbone: Backbone, encoder: Callable[[Example], list[Features]] | None):
        """``encoder(example) -> [features]`` is the task's. Raises Refused for a method that fits a classifier, and for
        a model whose head does not read the last token."""
        if backbone.needs != self.needs:
            what = "feature extraction fits a classifier to whole rows, and steps are parts of one"
            raise Refused(Finding("method.combination", "method", what, "use `lora`, `full` or `freeze`"))
        if backbone.reads != "last":
            what = "in this model a token sees those after it: what it says of a step would know the steps that follow"
            raise Refused(Finding("model.not-causal", "model.name", what, "choose a decoder (Llama, Qwen, GPT-2, ...)"))
        self.options, self.backbone, self.encoder = options, backbone, encoder
        backbone.dropout = False

    def encode(self, example: Example) -> list[Features]:
        """Of a row with two answers the chosen one, of which nothing is learned. Raises Refused for steps that hold the
        separator themselves."""
        assert self.encoder is not None
        told, separator = example.stepwise, self.options.separator
        example = replace(example, rejected=None, worse=[])
        if told is not None:
            text = separator.join(step for step, _ in told)
            example = replace(example, chosen=[{"role": "assistant", "content": text}])
            if len(step_texts(text, separator)) != len(told):
                what = f"a step holds the separator {separator!r} itself: it would be two"
                mend = "choose another `stepwise.separator`, or part the steps there"
                raise Refused(Finding("data.step-separator", f"{example.source}:steps", what, mend))
        (row,) = self.encoder(example)
        answer = [at for at, learned in enumerate(row["supervised"]) if learned]
        ends = step_ends(self.backbone.tokenizer, [row["input_ids"][at] for at in answer], separator) if answer else []
        if len(row["input_ids"]) < row["full_length"]:  # cut within a step
            ends = ends[:-1]
        labels = None if told is None else [label for _, label in told[: len(ends)]]
        return [row | {"step_at": [answer[end] for end in ends], "step_labels": labels}]

    def units(self, features: Features) -> int:
        return sum(label is not None for label in features["step_labels"] or [])

    def collate(self, rows: list[Features]) -> Batch:
        """Rows ``[a b | c d]`` (a bar after the end of a step) with labels 1 and 0, and ``[e]`` with label 1, packed:

        input_ids [[a b c d e]]   starts [0 0 4]   lengths [2 4 1]   counts [2 1]   labels [1 0 1] (NaN: nobody said)
        """
        tensors = self.backbone.lay_out(rows)
        counts = torch.tensor([len(row["step_at"]) for row in rows], dtype=torch.long)
        tensors["counts"] = counts
        tensors["step_starts"] = tensors["starts"].repeat_interleave(counts)
        ends = [end + 1 for row in rows for end in row["step_at"]]
        tensors["step_lengths"] = torch.tensor(ends, dtype=torch.long)
        labels = [row["step_labels"] or [None] * len(row["step_at"]) for row in rows]
        told = [torch.nan if one is None else one for some in labels for one in some]
        tensors["labels"] = torch.tensor(told, dtype=torch.float32)
        weights = torch.tensor([row["weight"] for row in rows], dtype=torch.float32)
        tensors["weights"] = weights.repeat_interleave(counts)
        return Batch(tensors, [row["row"] for row in rows], sum(len(row["input_ids"]) for row in rows))

    def scores(self, backbone: Backbone, batch: Batch) -> Tensor:
        """(N,), fp32: the head where each step ends, as if the row ended there."""
        hidden_TD = backbone.hidden(batch)
        parts = {"starts": batch["step_starts"], "lengths": batch["step_lengths"]}
        return backbone.sequence_logits(hidden_TD, Batch(batch.tensors | parts, batch.rows)).float()[:, 0]

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        judged_N = ~batch["labels"].isnan()
        scores_N, labels_N, weights_N = (
            some[judged_N] for some in (self.scores(backbone, batch), batch["labels"], batch["weights"])
        )
        losses_N = F.binary_cross_entropy_with_logits(scores_N, labels_N, reduction="none")
        right_N = ((scores_N.detach() > 0) == (labels_N >= 0.5)).float()
        count = float(weights_N.sum())
        report = {"step_accuracy": (float((right_N * weights_N).sum()), count)}
        return LossTerms((losses_N * weights_N).sum(), count, report)

    def mean_loss(self, outputs: list[dict[str, Any]], rows: list[Features]) -> float:
        """Nats per judged step, from outputs made before."""
        return sum(row["loss"] for row in outputs) / max(1, sum(self.units(row) for row in rows))

    def outputs(self, backbone: Backbone, batch: Batch) -> list[dict[str, Any]]:
        """Per row: how probable it is that each step is right (``steps``) and that all are (``score``, their product),
        the ``labels``, and the summed loss of those judged."""
        scores_N, labels_N = self.scores(backbone, batch), batch["labels"]
        losses_N = F.binary_cross_entropy_with_logits(scores_N, labels_N.nan_to_num(), reduction="none")
        told = [scores_N.sigmoid(), labels_N, torch.where(labels_N.isnan(), 0.0, losses_N)]
        parts = zip(*(one.split(batch["counts"].tolist()) for one in told), strict=True)
        return [
            {"steps": s.tolist(), "score": float(s.prod()), "labels": y.tolist(), "loss": float(loss.sum())}
            for s, y, loss in parts
        ]
