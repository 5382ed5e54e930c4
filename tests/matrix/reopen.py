"""Open finished runs and write the outputs for rows of ids: run as a program, it is the fresh process of a test.

`python reopen.py JOBS.json OUT.safetensors`, where the jobs are ``{name: {"run": folder, "rows": features}}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.engine.precision import matmul_route
from luthier.models.modes import evaluating


def outputs(predictor: Any, rows: list[dict[str, Any]]) -> Tensor:
    """Logits of all rows in one batch, in evaluation mode: (rows, C) of a classifier, (tokens, V) of a writer or of a
    head on tokens; (texts, D) of what makes vectors."""
    backbone = predictor.backbone
    with evaluating(backbone.model), torch.no_grad(), matmul_route(predictor.reader.matmul):
        batch = predictor.objective.collate(rows)
        if predictor.objective.couples:
            return predictor.objective.vectors(backbone, batch)
        hidden_TD = backbone.hidden(batch)
        if predictor.objective.needs == "sequence_logits":
            return backbone.sequence_logits(hidden_TD, batch)
        return (backbone.position_logits if backbone.has_own_head else backbone.token_logits)(hidden_TD)


def main(jobs: str, out: str) -> None:
    from safetensors.torch import save_file

    from luthier import load

    wanted = json.loads(Path(jobs).read_text(encoding="utf-8"))
    found = {name: outputs(load(job["run"]).predictor, job["rows"]).contiguous() for name, job in wanted.items()}
    save_file(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
