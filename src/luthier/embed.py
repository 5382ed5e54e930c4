"""``luthier embed``: one vector per row, from a pretrained model or a finished run's, as .npy or .safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.types import Finding, Refused


def embed_file(model: str, data: str, to: str, pooling: str | None = None) -> dict[str, Any]:
    """Write (K, D) fp32 vectors of the ``text`` of each row, in the rows' order. Raises Refused for bad rows."""
    from dataclasses import replace

    import numpy as np
    import torch
    from safetensors.numpy import save_file

    from luthier.data.read import read_rows
    from luthier.engine.precision import choose_matmul
    from luthier.evaluate.outputs import Reader
    from luthier.models.load import load, locate
    from luthier.runs.run import Run

    target = Path(to)
    if target.suffix not in (".npy", ".safetensors"):
        raise Refused(Finding("embed.form", to, "unknown file kind", "give a name that ends in .npy or .safetensors"))
    rows, findings = read_rows(data, base=Path.cwd())
    findings += [_no_text(source) for source, row in rows if not isinstance(row.get("text"), str)]
    if findings or not rows:
        raise Refused(*findings or [Finding("data.empty", data, "there are no rows here", "give a file with rows")])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (Path(model) / "run.json").is_file():
        backbone = replace(Run(model).predictor.backbone, needs="hidden")
    else:
        path, missing = locate(model, Path.cwd())
        if missing:
            raise Refused(*missing)
        backbone = load(model, path, "hidden")
        backbone.model.to(device)
        backbone.choose_layout("auto")
    pooling = pooling or ("last" if backbone.causal else "mean")
    limit = min(backbone.max_positions or 2048, 10**6)
    encoded = backbone.tokenizer([row["text"] for _, row in rows], truncation=True, max_length=limit)["input_ids"]
    reader = Reader(backbone, micro_tokens=4096, matmul=choose_matmul("auto", device)[0])
    vectors_KD = reader.vectors([{"row": i, "input_ids": ids} for i, ids in enumerate(encoded)], pooling).numpy()
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".npy":
        np.save(target, vectors_KD, allow_pickle=False)
    else:
        save_file({"vectors": vectors_KD}, target)
    return {"rows": len(rows), "width": vectors_KD.shape[1], "pooling": pooling, "file": str(target)}


def _no_text(source: Any) -> Finding:
    return Finding("data.type", f"{source}:text", "there is no text here", "name the column `text`")
