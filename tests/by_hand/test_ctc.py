"""CTC on trellises that fit on paper: the loss, the best path, beams, and when each label is said."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from luthier.evaluate.ctc import align, beam_search, collapse, least_frames
from luthier.evaluate.speech import plain, with_intervals
from luthier.objectives.ctc import Objective, Options
from luthier.types import Batch


class Frames:
    """Stands where a model would: its logits are what it is given."""

    blank_id = 0

    def hidden(self, batch: Batch) -> torch.Tensor:
        return batch["logits"].flatten(0, 1)

    def frame_logits(self, hidden_KLD: torch.Tensor) -> torch.Tensor:
        return hidden_KLD


def batch(chances: list[list[list[float]]], labels: list[list[int]], weights: list[float]) -> Batch:
    longest = max(map(len, chances))
    logits = torch.zeros(len(chances), longest, len(chances[0][0]))
    for k, row in enumerate(chances):
        logits[k, : len(row)] = torch.tensor(row).log()
    tensors = {
        "logits": logits, "lengths": torch.tensor([len(row) for row in chances]),
        "labels": torch.tensor([one for row in labels for one in row]),
        "label_lengths": torch.tensor([len(row) for row in labels]), "weights": torch.tensor(weights),
    }  # fmt: skip
    return Batch(tensors, list(range(len(chances))))


def test_the_loss_of_two_frames() -> None:
    """Blank, a, b with 1/2, 1/4, 1/4 in both frames. Paths that say "a": aa, a-, -a = 1/16 + 1/8 + 1/8 = 5/16.
    "ab" has one path, 1/16. The sum is ln(16/5) + 2 · ln 16 with weight 2 on the second row, whose letters count
    twice: 1 + 2 · 2. What stands behind a shorter row is not read.
    """
    frame = [0.5, 0.25, 0.25]
    terms = Objective(Options(), Frames(), None).loss(
        Frames(), batch([[frame] * 2, [frame] * 2], [[1], [1, 2]], [1, 2])
    )
    assert float(terms.total) == pytest.approx(math.log(16 / 5) + 2 * math.log(16), rel=1e-6)
    assert terms.count == 5
    longer = batch([[frame] * 2, [frame] * 5], [[1], [1, 2]], [1, 0])
    assert float(Objective(Options(), Frames(), None).loss(Frames(), longer).total) == pytest.approx(math.log(16 / 5))


def test_a_repeat_needs_a_blank() -> None:
    """Three frames say "aa" by a-a alone: 1/4 · 1/2 · 1/4 = 1/32. Two frames can't say it."""
    frame = [0.5, 0.25, 0.25]
    terms = Objective(Options(), Frames(), None).loss(Frames(), batch([[frame] * 3], [[1, 1]], [1]))
    assert float(terms.total) == pytest.approx(math.log(32), rel=1e-6)
    assert least_frames([1, 1]) == 3
    assert [least_frames(labels) for labels in ([], [1], [1, 2, 1], [2, 2, 2])] == [0, 1, 3, 5]
    with pytest.raises(ValueError, match="need 3 frames"):
        align(np.log(np.array([frame] * 2)), [1, 1], 0)


def test_a_path_collapses() -> None:
    assert collapse([0, 1, 1, 0, 1, 2, 2, 0], blank=0) == [1, 1, 2]
    assert collapse([], blank=0) == collapse([0, 0], blank=0) == []


def exhaustive(chances_LV: np.ndarray) -> dict[tuple[int, ...], float]:
    """The probability of each labelling: all V^L paths."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(chances_LV.shape[1]), repeat=len(chances_LV)):
        said = tuple(collapse(path, 0))
        found[said] = found.get(said, 0.0) + float(np.prod(chances_LV[range(len(path)), path]))
    return found


def test_beams_find_what_the_best_path_misses() -> None:
    """Blank 0.6, a 0.4, twice: the best path is blank, blank (0.36); "a" has 0.4 · 0.4 + 2 · 0.24 = 0.64."""
    chances = np.array([[0.6, 0.4], [0.6, 0.4]])
    assert collapse(chances.argmax(-1).tolist(), 0) == []
    assert beam_search(np.log(chances), 4, 0) == [1]


@pytest.mark.parametrize("seed", range(8))
def test_wide_beams_find_the_likeliest_labels(seed: int) -> None:
    chances = np.random.default_rng(seed).dirichlet([0.7] * 4, 5)
    every = exhaustive(chances)
    assert beam_search(np.log(chances), 1000, 0) == list(max(every, key=lambda one: every[one]))
    loss = Objective(Options(), Frames(), None).loss(Frames(), batch([chances.tolist()], [[1, 2]], [1])).total
    assert math.exp(-float(loss)) == pytest.approx(every[1, 2], rel=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_alignment_is_the_likeliest_path(seed: int) -> None:
    """Among all paths that say the labels."""
    labels = [1, 2, 2]
    chances = np.random.default_rng(seed).dirichlet([0.7] * 3, 6)
    paths = [path for path in itertools.product(range(3), repeat=6) if collapse(path, 0) == labels]
    scores = {path: math.log(float(np.prod(chances[range(6), path]))) for path in paths}
    best = max(paths, key=lambda path: scores[path])
    spans, total = align(np.log(chances), labels, 0)
    assert total == pytest.approx(scores[best])
    path = [0] * 6
    for label, (start, stop) in zip(labels, spans, strict=True):
        path[start:stop] = [label] * (stop - start)
    assert tuple(path) == best


def test_error_rates_by_hand() -> None:
    """ "one two three" against "one too": 1 substitution, 1 deletion of 3 words; "four" right. WER 2/4.

    Letters: "one two three" (13) to "one too" (7): w→o, and the 6 of " three" deleted: 7 edits of 13 + 4. Of several
    references the nearest counts.
    """
    found = plain(["one too", "four"], [["one two three"], ["for", "four"]])
    assert found == {"wer": 2 / 4, "cer": 7 / 17, "exact": 0.5}
    told = with_intervals(["one too", "four"], [["one two three"], ["for", "four"]])
    assert {name: value["value"] for name, value in told.items()} == found
    assert plain([""], [["a b"]])["wer"] == 1.0
