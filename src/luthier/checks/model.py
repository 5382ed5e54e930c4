"""The model and its tokenizer agree, and the weights are numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from luthier.types import Finding

if TYPE_CHECKING:
    from luthier.runs.prepared import Prepared


def ids_fit(prepared: Prepared) -> list[Finding]:
    """Every id that occurs in the rows has a row in the embedding table."""
    table = len(prepared.backbone.embedding.weight)
    findings = []
    for row in prepared.train.rows:
        worst = max(row["input_ids"], default=0)
        if worst >= table:
            source = prepared.train.examples[row["row"]].source
            token = prepared.backbone.tokenizer.convert_ids_to_tokens(worst)
            what = f"the tokenizer makes id {worst} ({token!r}), the model has {table:,} embeddings"
            findings.append(
                Finding("model.vocabulary", str(source), what, "use the tokenizer that belongs to the model")
            )
    return findings[:20]


def finite_weights(prepared: Prepared) -> list[Finding]:
    """No weight of the checkpoint is NaN or infinite."""
    bad = [
        name
        for name, parameter in prepared.backbone.model.named_parameters()
        if parameter.is_floating_point() and not torch.isfinite(parameter).all()
    ]
    if not bad:
        return []
    what = f"{len(bad)} weight tensor(s) hold NaN or infinity: {', '.join(bad[:3])}"
    return [Finding("model.not-finite", prepared.backbone.path, what, "take another copy of the weights")]
