"""InfoNCE, CoSENT, squared error and matryoshka on numbers small enough for paper, and who is no negative of whom.

Axes: K rows, U texts, D width.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from luthier.data.collate import lay_out
from luthier.objectives.contrastive import Objective, Options
from luthier.objectives.similarity import cosent, info_nce, not_negative, shortened

NO_ONE = torch.zeros(2, 2, dtype=torch.bool)
EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)


def vectors(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def objective(**options: Any) -> Objective:
    """Without a model: its vectors are given."""
    made = Objective.__new__(Objective)
    made.options, made.parameters = Options(**options), {}
    return made


def row(*keys: int, weight: float = 1.0, score: float | None = None) -> dict[str, Any]:
    told = {"keys": list(keys), "lengths": [1] * len(keys), "weight": weight}
    return told if score is None else told | {"score": score}


def test_two_orthogonal_pairs() -> None:
    """Cosines 1 with one's own and 0 with the other's, times ln 3: logits (ln 3, 0), so L = -ln(3/4) = ln(4/3) each."""
    losses = info_nce(vectors(EAST, NORTH), vectors(EAST, NORTH), NO_ONE, math.log(3))
    assert losses.tolist() == pytest.approx([math.log(4 / 3)] * 2)


def test_hard_negatives_are_candidates_of_every_row() -> None:
    """A third candidate (west) has cosine -1 with east and 0 with north, times ln 2:
    row 0: logits (ln 2, 0, -ln 2) → -ln(2 / (2 + 1 + 1/2)) = ln(7/4); row 1: (0, ln 2, 0) → -ln(2 / 4) = ln 2."""
    blocked = torch.zeros(2, 3, dtype=torch.bool)
    losses = info_nce(vectors(EAST, NORTH), vectors(EAST, NORTH, WEST), blocked, math.log(2))
    assert losses.tolist() == pytest.approx([math.log(7 / 4), math.log(2)])


def test_symmetric_is_the_mean_of_both_ways() -> None:
    """Queries east, east; positives east, north; scale ln 3. Logits: both rows (ln 3, 0).
    Forward: row 0 ln(4/3), row 1 -ln(1/4) = ln 4. Back: positive 0 sees (ln 3, ln 3): ln 2; positive 1 (0, 0): ln 2."""
    losses = info_nce(vectors(EAST, EAST), vectors(EAST, NORTH), NO_ONE, math.log(3), symmetric=True)
    assert losses.tolist() == pytest.approx([(math.log(4 / 3) + math.log(2)) / 2, (math.log(4) + math.log(2)) / 2])


def test_a_positive_that_stands_twice_is_no_negative_of_itself() -> None:
    """Rows 0 and 1 share the positive 10; row 2 has its own. Keys: queries 1, 2, 3; positives 10, 10, 11; negative 10.

    With it blocked, rows 0 and 1 have one other candidate (11) at cosine 0: ln(4/3) as above. Left in, each would be
    pushed away from its own positive: logits (ln 3, ln 3, 0, ln 3) would give ln(10/3).
    """
    blocked = not_negative([1, 2, 3], [10, 10, 11], [10, 10, 11, 10])
    assert blocked.tolist() == [[False, True, False, True], [True, False, False, True], [False] * 4]
    queries, candidates = vectors(EAST, EAST, NORTH), vectors(EAST, EAST, NORTH, EAST)
    losses = info_nce(queries, candidates, blocked, math.log(3))
    assert losses[:2].tolist() == pytest.approx([math.log(4 / 3)] * 2)
    left_in = info_nce(queries, candidates, torch.zeros(3, 4, dtype=torch.bool), math.log(3))
    assert left_in[:2].tolist() == pytest.approx([math.log(10 / 3)] * 2)


def test_another_positive_of_the_same_query_and_the_query_itself_are_no_negatives() -> None:
    """Query 1 stands in two rows, with positives 10 and 11; 1 is also someone's negative."""
    assert not_negative([1, 1, 2], [10, 11, 12], [10, 11, 12, 1]).tolist() == [
        [False, True, False, True],
        [True, False, False, True],
        [False, False, False, False],
    ]


def test_the_objective_adds_up_rows_by_weight() -> None:
    """Two orthogonal pairs at τ = 1/ln 3 with weights 1 and 3: total 4 ln(4/3), count 4."""
    terms = objective(temperature=1 / math.log(3)).coupled_loss(
        vectors(EAST, EAST, NORTH, NORTH), [row(1, 10), row(2, 11, weight=3)]
    )
    assert float(terms.total) == pytest.approx(4 * math.log(4 / 3))
    assert terms.count == 4


def test_vectors_of_any_length_count_by_their_direction() -> None:
    given = [row(1, 10), row(2, 11)]
    long = objective(temperature=1.0).coupled_loss(vectors((5, 0), (2, 0), (0, 3), (0, 0.1)), given)
    unit = objective(temperature=1.0).coupled_loss(vectors(EAST, EAST, NORTH, NORTH), given)
    assert float(long.total) == pytest.approx(float(unit.total))
    products = objective(temperature=1.0, normalize=False).coupled_loss(vectors((5, 0), (2, 0), (0, 3), (0, 1)), given)
    # products: row 0 (10, 0), row 1 (0, 3)
    assert float(products.total) == pytest.approx(math.log(1 + math.exp(-10)) + math.log(1 + math.exp(-3)))


def test_a_row_with_nothing_to_be_told_from_does_not_count() -> None:
    alone = objective().coupled_loss(vectors(EAST, NORTH), [row(1, 10)])
    assert (float(alone.total), alone.count) == (0.0, 0.0)
    same = objective().coupled_loss(vectors(EAST, NORTH, WEST, NORTH), [row(1, 10), row(2, 10)])
    assert same.count == 0.0
    with_negative = objective().coupled_loss(vectors(EAST, EAST, WEST), [row(1, 10, 11)])
    assert with_negative.count == 1.0


def test_matryoshka_adds_up_prefixes_at_length_1_again() -> None:
    """Vectors of two numbers and their first alone. Pairs (3, 4)/5 with itself and (-3, 4)/5 with itself.

    Size 2: cosines 1 and (-9 + 16)/25 = 7/25. Size 1, renormalised: 1 and -1 (not 9/25 and -9/25).
    """
    told = vectors((0.6, 0.8), (0.6, 0.8), (-0.6, 0.8), (-0.6, 0.8))
    terms = objective(temperature=1.0, sizes=[2, 1]).coupled_loss(told, [row(1, 10), row(2, 11)])
    each = math.log(1 + math.exp(7 / 25 - 1)) + math.log(1 + math.exp(-1 - 1))
    assert float(terms.total) == pytest.approx(2 * each)
    assert terms.count == 2
    assert shortened(vectors((3, 4, 12)), 2).tolist() == [pytest.approx([0.6, 0.8])]


def test_cosent_orders_pairs_by_their_scores() -> None:
    """Scores 3, 2, 2 with cosines 0, 1, 1 at scale ln 2: two pairs of rows are in the wrong order by 1.

    log(1 + 2¹ + 2¹) = ln 5. Equal scores are in no order; with the right order (cosines 1, 0, 0): log(1 + 1/2 + 1/2).
    """
    ones, scale = torch.ones(3), math.log(2)
    scores = torch.tensor([3.0, 2.0, 2.0])
    assert float(cosent(torch.tensor([0.0, 1.0, 1.0]), scores, ones, scale)) == pytest.approx(math.log(5))
    assert float(cosent(torch.tensor([1.0, 0.0, 0.0]), scores, ones, scale)) == pytest.approx(math.log(2))
    # A weight of 2 counts a pair of rows twice: 1 + 2·2 + 2 = 7.
    weighted = cosent(torch.tensor([0.0, 1.0, 1.0]), scores, torch.tensor([1.0, 2.0, 1.0]), scale)
    assert float(weighted) == pytest.approx(math.log(7))


def test_scored_pairs_by_rows_and_by_square() -> None:
    told, rows = vectors(EAST, NORTH, EAST, EAST), [row(1, 10, score=1.0), row(2, 11, score=0.5, weight=2)]
    order = objective(temperature=1 / math.log(2)).coupled_loss(told, rows)
    # cosines 0 and 1, scores 1 and 0.5, weights 1 and 2: log(1 + 1·2·2¹) = ln 5, as the mean over Σw = 3
    assert float(order.total) / order.count == pytest.approx(math.log(5))
    square = objective(loss="mse").coupled_loss(told, rows)
    assert float(square.total) == pytest.approx((0 - 1) ** 2 + 2 * (1 - 0.5) ** 2)
    assert square.count == 3


def test_a_learned_temperature_stops_at_a_hundredth_and_can_come_back() -> None:
    """ln(1/τ) beyond ln 100 acts as ln 100; its gradient is that at the bound, not zero."""
    made = objective()
    made.parameters = {"logit_scale": nn.Parameter(torch.tensor(9.0))}
    assert float(torch.as_tensor(made.scale).detach()) == pytest.approx(100)
    # Row 0 is wrong: its query is nearer to the other's positive, so the scale wants to fall.
    terms = made.coupled_loss(vectors(EAST, NORTH, NORTH, EAST), [row(1, 10), row(2, 11)])
    terms.total.backward()
    assert float(made.parameters["logit_scale"].grad) > 0
    assert terms.report["temperature"] == (pytest.approx(0.01), 1.0)


def test_texts_lie_end_to_end_and_are_pooled_one_by_one() -> None:
    """Hidden states are the ids themselves: means of [1 3], [5], [2 4 6] are 2, 5 and 4."""
    ids = [1, 3, 5, 2, 4, 6]
    features = [{"row": 0, "input_ids": ids, "lengths": [2, 1, 3], "keys": [1, 2, 3], "weight": 1.0}]
    made = objective()
    made.pooling = "mean"
    made.backbone = SimpleNamespace(lay_out=lambda rows: lay_out(rows, "padded"))  # type: ignore[assignment]
    batch = made.collate(features)
    assert batch["lengths"].tolist() == [2, 1, 3]
    assert (batch.rows, batch.tokens) == ([0], 6)
    hidden = SimpleNamespace(hidden=lambda batch: batch["input_ids"].flatten()[:, None].float())
    assert made.vectors(hidden, batch).tolist() == [[2.0], [5.0], [4.0]]  # type: ignore[arg-type]
    (found,) = made.outputs(hidden, batch)  # type: ignore[arg-type]
    assert found.tolist() == [[2.0], [5.0], [4.0]]
