"""BLEU and chrF of translations (Papineni et al. 2002; Popović 2015), by sacreBLEU (Post 2018), and exact match.

Both are of the whole corpus, on sacreBLEU's scale of 0 to 100, with the signature that makes them comparable. Intervals
resample the rows, by sacreBLEU's own bootstrap.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from luthier.evaluate.intervals import Metrics, mean_interval

RESAMPLES = 1000


def available() -> bool:
    return find_spec("sacrebleu") is not None


def with_intervals(written: Sequence[str], references: Sequence[Sequence[str]]) -> Metrics:
    """``bleu`` and ``chrf`` where sacreBLEU is installed (``luthier[translate]``), and ``exact_match`` (0 to 1)."""
    pairs = list(zip(written, references, strict=True))
    exact = mean_interval([text.strip() in {one.strip() for one in known} for text, known in pairs])
    if not available():
        return {"exact_match": exact}
    from sacrebleu.metrics import BLEU, CHRF

    return {"bleu": _measured(BLEU(), written, references), "chrf": _measured(CHRF(), written, references),
            "exact_match": exact}  # fmt: skip


def bleu(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """0 to 100, of the whole corpus. Needs sacreBLEU (``luthier[translate]``)."""
    from sacrebleu.metrics import BLEU

    return _measured(BLEU(), written, references)


def _measured(metric: Any, written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    most = max(len(known) for known in references)
    # sacreBLEU takes the n-th reference of every row together; a row that has fewer has None there.
    columns = [[known[at] if at < len(known) else None for known in references] for at in range(most)]
    score = metric.corpus_score(list(written), columns, n_bootstrap=RESAMPLES if len(written) > 1 else 1)
    told = json.loads(score.format(width=4, is_json=True, signature=str(metric.get_signature())))
    found = {"value": float(score.score), "n": len(written), "signature": told["signature"]}
    mean, half = told.get("confidence_mean"), told.get("confidence_var")
    return found if mean is None else found | {"low": mean - half, "high": mean + half}
