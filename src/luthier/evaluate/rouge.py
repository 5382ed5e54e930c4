"""ROUGE of summaries against their references (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries").

F1 of words (`rouge1`), of pairs of words (`rouge2`) and of the longest common subsequence (`rougeL`), by the package
rouge-score with Porter's stemmer, as papers report it. Of several references the best counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from luthier.evaluate.intervals import Metrics, mean_interval

KINDS = ("rouge1", "rouge2", "rougeL")


def available() -> bool:
    return find_spec("rouge_score") is not None


def with_intervals(written: Sequence[str], references: Sequence[Sequence[str]]) -> Metrics:
    """Means over rows, 0 to 1, with 95 % intervals. Needs rouge-score (``luthier[summarize]``)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(KINDS), use_stemmer=True)
    scores = [scorer.score_multi(list(known), text) for known, text in zip(references, written, strict=True)]
    return {kind: mean_interval([score[kind].fmeasure for score in scores]) for kind in KINDS}
