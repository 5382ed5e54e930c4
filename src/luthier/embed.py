"""``luthier embed``: one vector per row, from a pretrained model or a finished run's, as .npy or .safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.types import Finding, Refused


def embed_file(model: str, data: str, to: str, pooling: str | None = None, kind: str = "passage") -> dict[str, Any]:
    """Write (K, D) fp32 vectors of the ``text`` of each row, in the rows' order. Raises Refused for bad rows.

    A run of `retrieve` embeds as it was trained to: ``kind`` (query or passage) says which prefix a text takes. Other
    models give the pooled vectors as they are.
    """
    from dataclasses import replace

    import numpy as np
    from safetensors.numpy import save_file

    from luthier.data.files.read import read_rows
    from luthier.runs.finding.embedder import FILE, open_embedder

    target = Path(to)
    if target.suffix not in (".npy", ".safetensors"):
        raise Refused(Finding("embed.form", to, "unknown file kind", "give a name that ends in .npy or .safetensors"))
    rows, findings = read_rows(data, base=Path.cwd())
    findings += [_no_text(source) for source, row in rows if not isinstance(row.get("text"), str)]
    if findings or not rows:
        raise Refused(*findings or [Finding("data.empty", data, "there are no rows here", "give a file with rows")])
    embedder = open_embedder(model, pooling=pooling)
    if not (Path(model) / "final" / FILE).is_file():
        embedder.settings = replace(embedder.settings, normalize=False)
    texts = [row["text"] for _, row in rows]
    vectors_KD = embedder.queries(texts) if kind == "query" else embedder.passages(texts)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".npy":
        np.save(target, vectors_KD, allow_pickle=False)
    else:
        save_file({"vectors": vectors_KD}, target)
    pooling = embedder.settings.pooling
    return {"rows": len(rows), "width": vectors_KD.shape[1], "pooling": pooling, "file": str(target)}


def _no_text(source: Any) -> Finding:
    return Finding("data.type", f"{source}:text", "there is no text here", "name the column `text`")
