"""The same exact search by FAISS (``pip install "luthier[faiss]"``): all vectors in memory, products by its kernels.

Axes: Q queries, D width, k results.
"""

from __future__ import annotations

import numpy as np

from luthier.search.index import Index, fitted
from luthier.types import Finding, Refused


def search(index: Index, queries_QD: np.ndarray, k: int) -> list[list[tuple[int, float]]]:
    """The k entries of the largest product with each query, best first. Raises Refused where FAISS is not installed."""
    try:
        import faiss
    except ImportError:
        mend = 'pip install "luthier[faiss]", or leave `--backend faiss` out: the search is exact either way'
        raise Refused(Finding("index.faiss", "--backend", "FAISS is not installed", mend)) from None
    normalize = bool(index.manifest["settings"].get("normalize", True))
    first = np.flatnonzero(index.first_N)
    flat = faiss.IndexFlatIP(index.width)
    flat.add(index.vectors()[first])
    scores_Qk, places_Qk = flat.search(fitted(queries_QD, index.width, normalize=normalize), min(k, len(first)))
    return [
        sorted(zip(first[places].tolist(), scores.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
        for places, scores in zip(places_Qk, scores_Qk, strict=True)
    ]
