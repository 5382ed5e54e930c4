"""Error rates of transcripts, by jiwer: edits over the words, or the letters, of what was said.

Rates are of all rows together: the sum of edits over the sum of words (Morris et al. 2004, Interspeech). Of several
references the nearest counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from luthier.evaluate.intervals import Metrics, interval, mean_interval

# Whether higher is better.
METRICS = {"wer": False, "cer": False, "exact": True}


def available() -> bool:
    return find_spec("jiwer") is not None


def edits(written: str, said: str) -> dict[str, tuple[int, int]]:
    """(edits, length) of words and of letters. ``said`` is not empty."""
    import jiwer

    words, letters = jiwer.process_words(said, written), jiwer.process_characters(said, written)
    return {
        name: (out.substitutions + out.deletions + out.insertions, out.substitutions + out.deletions + out.hits)
        for name, out in (("wer", words), ("cer", letters))
    }


def nearest(written: str, references: Sequence[str]) -> dict[str, tuple[int, int]]:
    return min((edits(written, said) for said in references), key=lambda one: one["cer"][0] / max(1, one["cer"][1]))


def plain(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``wer``, ``cer`` and the share of rows that are ``exact``; texts are normalised before."""
    found = [nearest(text, said) for text, said in zip(written, references, strict=True)]
    rates = {
        name: sum(one[name][0] for one in found) / max(1, sum(one[name][1] for one in found))
        for name in ("wer", "cer")
    }  # fmt: skip
    exact = [text in said for text, said in zip(written, references, strict=True)]
    return {**rates, "exact": sum(exact) / max(1, len(exact))}


def with_intervals(written: Sequence[str], references: Sequence[Sequence[str]]) -> Metrics:
    found = [nearest(text, said) for text, said in zip(written, references, strict=True)]
    told: Metrics = {}
    for name in ("wer", "cer"):
        edits_K, lengths_K = (np.array([one[name][part] for one in found], dtype=float) for part in (0, 1))
        told[name] = interval(lambda i, e=edits_K, n=lengths_K: e[i].sum() / max(n[i].sum(), 1), len(found))  # type: ignore[misc]
    exact = [float(text in said) for text, said in zip(written, references, strict=True)]
    return told | {"exact": mean_interval(exact)}
