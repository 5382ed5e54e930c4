"""How pictures and texts find each other: recall@k both ways, and accuracy where the texts are classes.

Recall@k of a picture is 1 where one of its own texts is among the k nearest of all texts, and of a text where one of
its own pictures is (Karpathy and Fei-Fei 2015, arXiv 1412.2306, section 4.2). Contents count once: pictures of the same
pixels are one, and so are texts that say the same. ``mean_recall`` is the mean of all six. Intervals resample pictures,
each with its texts.

Axes: I pictures, T texts, K rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.evaluate.intervals import Metrics, interval
from luthier.evaluate.retrieval import rank
from luthier.types import Features

LEVELS = (1, 5, 10)
WAYS = ("image_to_text", "text_to_image")
RECALLS = [f"{way}_recall@{k}" for way in WAYS for k in LEVELS]
RANKED = {"loss": False, **dict.fromkeys(RECALLS, True), "mean_recall": True}
CLASSED = {"loss": False, "accuracy": True}


def settle_pairs(
    vectors: Sequence[Tensor], rows: Sequence[Features], more: Sequence[Tensor] = (), pictured: Sequence[Tensor] = ()
) -> list[dict[str, Any]]:
    """For each row: the ``picture`` and ``text`` that it is (numbers, equal for equal contents), the place (from 1) of
    the nearest of its own for each way, and the row of the first text and of the first picture. ``more`` are vectors
    (D,) of texts that are ranked for pictures too, ``pictured`` of pictures that are for texts; as the first they count
    on from the rows."""
    shown, said = ([row["keys"][at] for row in rows] for at in (0, 1))
    pictures, texts = ({key: k for k, key in reversed(list(enumerate(keys)))} for keys in (shown, said))
    at_picture, at_text = ({key: at for at, key in enumerate(sorted(s, key=s.__getitem__))} for s in (pictures, texts))
    pictures_ID = torch.stack([vectors[pictures[key]][0] for key in at_picture])
    texts_TD = torch.stack([vectors[texts[key]][1] for key in at_text])
    own: list[set[int]] = [set() for _ in at_picture]
    back: list[set[int]] = [set() for _ in at_text]
    for picture, text in zip(shown, said, strict=True):
        own[at_picture[picture]].add(at_text[text])
        back[at_text[text]].add(at_picture[picture])
    among = torch.cat([texts_TD, torch.stack(list(more))]) if more else texts_TD
    places_I, best_I = rank(pictures_ID, among, [sorted(those) for those in own])
    shown_ID = torch.cat([pictures_ID, torch.stack(list(pictured))]) if pictured else pictures_ID
    places_T, best_T = rank(texts_TD, shown_ID, [sorted(those) for those in back])
    row_of_text, row_of_picture = [texts[key] for key in at_text], [pictures[key] for key in at_picture]
    row_of_text += range(len(rows), len(rows) + len(more))
    row_of_picture += range(len(rows), len(rows) + len(pictured))
    settled = []
    for k, (picture, text) in enumerate(zip(shown, said, strict=True)):
        i, t = at_picture[picture], at_text[text]
        settled.append({
            "picture": i, "text": t, "similarity": float(vectors[k][0] @ vectors[k][1]),
            "image_to_text": places_I[i][0], "text_to_image": places_T[t][0],
            "best_text": row_of_text[best_I[i]], "best_picture": row_of_picture[best_T[t]],
        })  # fmt: skip
    return settled


class _Hits:
    """1 or 0 of each picture and level, and of its texts: their sum, and how many they are. A text of several pictures
    counts a part for each."""

    def __init__(self, outputs: Sequence[dict[str, Any]]):
        pairs = {(row["picture"], row["text"]): row for row in outputs}
        shares: dict[int, int] = {}
        for _, text in pairs:
            shares[text] = shares.get(text, 0) + 1
        self.count = 1 + max(row["picture"] for row in outputs)
        self.of_picture_I3 = np.zeros((self.count, len(LEVELS)))
        self.of_texts_I3, self.texts_I = np.zeros((self.count, len(LEVELS))), np.zeros(self.count)
        for (picture, text), row in pairs.items():
            share = 1 / shares[text]
            self.of_picture_I3[picture] = [row["image_to_text"] <= k for k in LEVELS]
            self.of_texts_I3[picture] += [share * (row["text_to_image"] <= k) for k in LEVELS]
            self.texts_I[picture] += share

    def recalls(self, i: np.ndarray) -> np.ndarray:
        """All six, of the pictures ``i``."""
        back = self.of_texts_I3[i].sum(0) / self.texts_I[i].sum()
        return np.concatenate([self.of_picture_I3[i].mean(0), back])


def plain(outputs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The six recalls and their mean; nothing where rows are pictures or texts alone."""
    if not outputs or "picture" not in outputs[0]:
        return {}
    hits = _Hits(outputs)
    found = hits.recalls(np.arange(hits.count))
    return {**dict(zip(RECALLS, found.tolist(), strict=True)), "mean_recall": float(found.mean())}


def with_intervals(outputs: Sequence[dict[str, Any]]) -> Metrics:
    """The same with bootstrap intervals over pictures."""
    if not outputs or "picture" not in outputs[0]:
        return {}
    hits = _Hits(outputs)
    found: Metrics = {
        name: interval(lambda i, at=at: float(hits.recalls(i)[at]), hits.count)  # type: ignore[misc]
        for at, name in enumerate(RECALLS)
    }
    return found | {"mean_recall": interval(lambda i: float(hits.recalls(i).mean()), hits.count)}
