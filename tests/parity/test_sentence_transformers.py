"""Losses, gradients and vectors as sentence-transformers' (recorded by sbert/record.py), within 1e-5;
nDCG as scikit-learn's, and recall and MRR as trec_eval defines them: by hand from full rankings, and by pytrec_eval.

Axes: K rows, D width, Q queries, C passages.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from luthier.evaluate import retrieval
from luthier.objectives.contrastive import Objective, Options

TOLD = json.loads((Path(__file__).parent / "sbert" / "fixtures.json").read_text(encoding="utf-8"))
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "pairs": (2, {}),
    "triplets": (3, {}),
    "pairs, scale 7": (2, {"temperature": 1 / 7}),
    "symmetric": (2, {"symmetric": True}),
    "matryoshka": (3, {"sizes": [16, 8, 4]}),
    "cosent": (2, {}),
    "cosine mse": (2, {"loss": "mse"}),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_the_peers(case: str) -> None:
    columns, options = CASES[case]
    scored = case in ("cosent", "cosine mse")
    vectors_KTD = torch.stack([torch.tensor(column) for column in TOLD["columns"][:columns]], dim=1)
    leaf_UD = vectors_KTD.flatten(0, 1).clone().requires_grad_()
    rows = [
        {"keys": [10 * k + t for t in range(columns)], "lengths": [1] * columns, "weight": 1.0}
        | ({"score": TOLD["scores"][k]} if scored else {})
        for k in range(len(vectors_KTD))
    ]
    objective = Objective.__new__(Objective)
    objective.options, objective.parameters = Options(**options), {}
    terms = objective.coupled_loss(leaf_UD, rows)
    mean = terms.total / terms.count
    mean.backward()
    assert float(mean.detach()) == pytest.approx(TOLD["cases"][case]["loss"], rel=1e-5)
    assert leaf_UD.grad is not None
    torch.testing.assert_close(leaf_UD.grad[0], torch.tensor(TOLD["cases"][case]["gradient"]), atol=1e-5, rtol=1e-5)


def test_every_case_that_was_recorded_is_compared() -> None:
    assert TOLD["cases"].keys() == CASES.keys()


def test_the_starter_gives_the_peers_vectors() -> None:
    from luthier.runs.finding.embedder import open_embedder

    vectors_KD = open_embedder("starter:minilm").passages(TOLD["texts"])
    np.testing.assert_allclose(vectors_KD, np.array(TOLD["vectors"]), atol=1e-5)


@pytest.fixture(scope="module")
def ranked() -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """(scores_QC, relevance_QC, places) of 20 queries and 40 passages; 1 to 4 are relevant."""
    draw = np.random.default_rng(0)
    queries_QD, passages_CD = draw.normal(size=(20, 8)), draw.normal(size=(40, 8))
    relevant = [sorted(draw.choice(40, size=1 + q % 4, replace=False).tolist()) for q in range(20)]
    relevance_QC = np.zeros((20, 40))
    for q, those in enumerate(relevant):
        relevance_QC[q, those] = 1
    queries, passages = (torch.tensor(v, dtype=torch.float32) for v in (queries_QD, passages_CD))
    places, best = retrieval.rank(queries, passages, relevant)
    scores_QC = (queries @ passages.T).numpy()
    assert best == scores_QC.argmax(1).tolist()
    return scores_QC, relevance_QC, places


def test_ndcg_is_scikit_learns(ranked: Any) -> None:
    scores_QC, relevance_QC, places = ranked
    ours = np.mean([retrieval.of_places(found)["ndcg@10"] for found in places])
    assert ours == pytest.approx(ndcg_score(relevance_QC, scores_QC, k=10), rel=1e-9)


def test_all_metrics_are_trec_evals(ranked: Any) -> None:
    """Where pytrec_eval is installed. Its recip_rank knows no cut, so that it is given ten passages a query."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    scores_QC, relevance_QC, places = ranked
    relevant = {str(q): {str(c): int(r) for c, r in enumerate(row)} for q, row in enumerate(relevance_QC)}
    run = {str(q): {str(c): float(s) for c, s in enumerate(row)} for q, row in enumerate(scores_QC)}
    top = {q: dict(sorted(row.items(), key=lambda pair: -pair[1])[:10]) for q, row in run.items()}
    found = pytrec_eval.RelevanceEvaluator(relevant, {"recall.1,10", "ndcg_cut.10"}).evaluate(run)
    cut = pytrec_eval.RelevanceEvaluator(relevant, {"recip_rank"}).evaluate(top)
    for q, those in enumerate(places):
        theirs = found[str(q)] | cut[str(q)]
        names = {"recall@1": "recall_1", "recall@10": "recall_10", "mrr@10": "recip_rank", "ndcg@10": "ndcg_cut_10"}
        assert retrieval.of_places(those) == pytest.approx({ours: theirs[name] for ours, name in names.items()})


def test_recall_and_mrr_by_full_rankings(ranked: Any) -> None:
    scores_QC, relevance_QC, places = ranked
    for scores_C, relevance_C, found in zip(scores_QC, relevance_QC, places, strict=True):
        in_order = relevance_C[np.argsort(-scores_C, kind="stable")]
        ours = retrieval.of_places(found)
        assert ours["recall@1"] == in_order[:1].sum() / relevance_C.sum()
        assert ours["recall@10"] == in_order[:10].sum() / relevance_C.sum()
        first = int(in_order.argmax()) + 1
        assert ours["mrr@10"] == (1 / first if first <= 10 else 0)


def test_a_block_of_queries_at_a_time_ranks_the_same(ranked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(1)
    queries, passages = torch.randn(7, 4, generator=draw), torch.randn(9, 4, generator=draw)
    whole = retrieval.rank(queries, passages, [[q] for q in range(7)])
    monkeypatch.setattr(retrieval, "BLOCK", 10)
    assert retrieval.rank(queries, passages, [[q] for q in range(7)]) == whole


def test_equals_rank_in_the_order_of_the_rows() -> None:
    same = torch.ones(3, 2)
    assert retrieval.rank(torch.ones(1, 2), same, [[0, 2]]) == ([[1, 3]], [0])


def test_a_query_counts_once_whatever_the_number_of_its_rows() -> None:
    """Query 1 has two rows and both passages in places 1 and 2; query 2 has one, in place 3 of 3.

    Mean recall@1 over queries: (1/2 + 0) / 2 = 1/4; over rows it would be (1/2 + 1/2 + 0) / 3.
    """
    east, north, between = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]
    rows = [{"keys": [1, 10]}, {"keys": [1, 11]}, {"keys": [2, 12]}]
    vectors = [torch.tensor([east, east]), torch.tensor([east, between]), torch.tensor([east, north])]
    settled = retrieval.settle_ranked(vectors, rows)
    assert [one["places"] for one in settled] == [[1, 2], [1, 2], [3]]
    assert retrieval.plain(settled)["recall@1"] == pytest.approx(1 / 4)
    assert retrieval.with_intervals(settled)["recall@1"]["value"] == pytest.approx(1 / 4)
    assert retrieval.with_intervals(settled)["recall@1"]["n"] == 2


def test_spearman_and_pearson_are_scipys() -> None:
    from scipy.stats import pearsonr, spearmanr

    draw = np.random.default_rng(2)
    a, b = draw.normal(size=30), draw.integers(0, 5, 30).astype(float)
    outputs = [{"similarity": x, "score": y} for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    found = retrieval.plain(outputs)
    assert found["spearman"] == pytest.approx(spearmanr(a, b).statistic)
    assert found["pearson"] == pytest.approx(pearsonr(a, b).statistic)
