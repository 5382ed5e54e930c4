"""How much each fused adapter weighs: on each row held out, by layer, and by modality.

Axes: R rows, L layers, N members.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.runs.folder import write_lines
from luthier.runs.predictor import Predictor
from luthier.runs.prepared import Prepared


def mixing(prepared: Prepared, predictor: Predictor) -> dict[str, Tensor]:
    """(R, L, N) under "" over all tokens, and over each kind of token where a model reads several."""
    weigh = prepared.adaptation.mixing
    assert weigh is not None
    kinds = {"": weigh} | prepared.adaptation.mixing_of
    return {kind: predictor.reader.mixing(call, prepared.evaluation.rows) for kind, call in kinds.items()}


def tell_mixing(
    folder: Path, prepared: Prepared, found: dict[str, Tensor], samples: list[dict[str, Any]]
) -> dict[str, Any]:
    """mixing.jsonl has each row; the samples get theirs; returned are the means of each layer, and by modality."""
    members, evaluation, weights_RLN = prepared.adaptation.members, prepared.evaluation, found[""]
    lines: list[dict[str, Any]] = []
    of_example: dict[int, list[float]] = {}
    for row, layers in zip(evaluation.rows, weights_RLN.tolist(), strict=True):
        rounded = [[round(weight, 4) for weight in layer] for layer in layers]
        lines.append({"source": str(evaluation.examples[row["row"]].source), "members": members, "layers": rounded})
        of_example.setdefault(row["row"], [sum(column) / len(rounded) for column in zip(*rounded, strict=True)])
    write_lines(folder / "mixing.jsonl", lines)
    for at, sample in enumerate(samples):
        sample["mixing"] = {name: round(w, 4) for name, w in zip(members, of_example[at], strict=True)}
    told = {"members": members, "layers": weights_RLN.mean(0).tolist(), "rows": len(lines)}
    return told | ({"by": _by_modality(prepared, found)} if len(found) > 1 else {})


def _by_modality(prepared: Prepared, found: dict[str, Tensor]) -> list[dict[str, Any]]:
    """By kind of token, and by kind of row: the means of each layer over those rows that have any."""
    shown_R = torch.tensor([bool(row.get("pictures")) for row in prepared.evaluation.rows])
    parts = {kind: weights_RLN for kind, weights_RLN in found.items() if kind}
    parts |= {"rows with pictures": found[""][shown_R], "rows of text alone": found[""][~shown_R]}
    told = []
    for kind, weights_RLN in parts.items():
        known_RLN = weights_RLN[~weights_RLN.isnan().flatten(1).any(1)]
        if len(known_RLN):
            told.append({"what": kind, "rows": len(known_RLN), "layers": known_RLN.mean(0).tolist()})
    return told
