"""F1 as scikit-learn gives it, of all rows and of resamples that lack classes.

Axes: K rows, C classes.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from luthier.evaluate.classification import plain


@pytest.mark.parametrize("rows", [1, 5, 200])
@pytest.mark.parametrize("classes", [2, 3, 40])
def test_macro_f1_of_one_class_a_row(rows: int, classes: int) -> None:
    draw = np.random.default_rng(rows * classes)
    logits_KC, truth_K = draw.normal(size=(rows, classes)), draw.integers(0, classes, rows)
    found = plain(logits_KC.tolist(), truth_K.tolist(), "single")
    theirs = f1_score(truth_K, logits_KC.argmax(1), average="macro", zero_division=0)
    assert found["f1_macro"] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("average", ["micro", "macro"])
@pytest.mark.parametrize("rows", [1, 5, 200])
def test_f1_of_several_labels_a_row(rows: int, average: str) -> None:
    """A label that no row has and none was given counts as 0; so does a micro F1 without any."""
    draw = np.random.default_rng(rows)
    logits_KC, truth_KC = draw.normal(size=(rows, 6)) - 1, (draw.random((rows, 6)) < 0.2).astype(int)
    logits_KC[:, 0], truth_KC[:, 0] = -1, 0
    found = plain(logits_KC.tolist(), truth_KC.tolist(), "multi")
    theirs = f1_score(truth_KC, logits_KC > 0, average=average, zero_division=0)
    assert found[f"f1_{average}"] == pytest.approx(theirs, abs=1e-12)
    nothing = plain([[-1.0, -1.0]], [[0, 0]], "multi")
    assert nothing[f"f1_{average}"] == 0.0
