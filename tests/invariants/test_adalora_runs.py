"""AdaLoRA keeps what decides its ranks between steps: gone on from any checkpoint, and past a skipped step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Trained, Trial, Wrapped, chat_rows, ready

from luthier.engine.checkpoint import latest
from luthier.types import Batch, LossTerms

STEPS = 10  # 2 before the ranks fall, settled after 7
OPTIONS = {"rank": 2, "initial_rank": 4, "tinit": 2, "tfinal": 3, "deltaT": 2, "dropout": 0.1}


def trial(tiny_folder: Any, folder: Path) -> Trial:
    made = ready(tiny_folder("llama"), "chat", chat_rows(8), folder, method="adalora", lora=OPTIONS, steps=STEPS)
    return Trial(made, folder)


def fitted(tiny_folder: Any, folder: Path, **changes: Any) -> tuple[Trained, dict[str, int], dict[str, torch.Tensor]]:
    """From a model of its own: weights, ranks, and what is kept between steps."""
    made = trial(tiny_folder, folder)
    adaptation = made.prepared.adaptation
    trained = made.fit(steps=STEPS, save_every=1, keep=STEPS, learning_rate=1e-2, **changes)
    assert adaptation.told is not None
    return trained, adaptation.told()["ranks"], {n: t.clone() for n, t in adaptation.state.items()}


@pytest.fixture(scope="module")
def whole(tiny_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return fitted(tiny_folder, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("step", [1, 3, 4, 6, 7, 8])
def test_gone_on_from_any_checkpoint_it_is_the_same_bits(
    step: int, whole: Any, tiny_folder: Any, tmp_path: Path
) -> None:
    """Before the first cut, between two, at the step that settles the ranks, and after it."""
    trained, ranks, state = whole
    found, _ = latest(trained.folder, "hash", step=step)
    assert found is not None
    resumed, ranks_again, state_again = fitted(tiny_folder, tmp_path, resume=found)
    assert all(torch.equal(value, resumed.weights[name]) for name, value in trained.weights.items())
    assert ranks_again == ranks
    assert all(torch.equal(value, state_again[name]) for name, value in state.items())
    assert sum(ranks.values()) == 2 * len(ranks)
    assert max(ranks.values()) > min(ranks.values())


def test_without_what_it_keeps_it_would_not_be(whole: Any, tiny_folder: Any, tmp_path: Path) -> None:
    """The test above can fail: with importances that begin again at zero, other triplets stay."""
    trained, _, _ = whole
    found, _ = latest(trained.folder, "hash", step=6)
    assert found is not None
    made = trial(tiny_folder, tmp_path)
    kept, made.prepared.adaptation.state = made.prepared.adaptation.state, {}
    resumed = made.fit(steps=STEPS, save_every=1, learning_rate=1e-2, resume=found, folder=tmp_path / "again")
    assert kept
    assert any(not torch.equal(value, resumed.weights[name]) for name, value in trained.weights.items())


@pytest.mark.parametrize("bad", [4, 7])
def test_a_skipped_step_leaves_the_ranks_finite_and_the_budget_kept(bad: int, tiny_folder: Any, tmp_path: Path) -> None:
    """Also where it is the very step that would have settled the ranks."""
    made = trial(tiny_folder, tmp_path)
    objective, calls = made.prepared.objective, [0]

    def loss(backbone: Any, batch: Batch) -> LossTerms:
        terms = objective.loss(backbone, batch)
        calls[0] += 1
        return LossTerms(terms.total * (float("nan") if calls[0] == bad else 1.0), terms.count)

    trained = made.fit(objective=Wrapped(objective, loss=loss), steps=STEPS, learning_rate=1e-2)
    assert [record["event"] for record in trained.records if record["kind"] == "event"] == ["nan"]
    adaptation = made.prepared.adaptation
    assert all(torch.isfinite(tensor).all() for tensor in (*trained.weights.values(), *adaptation.state.values()))
    assert adaptation.told is not None
    ranks = adaptation.told()["ranks"]
    assert sum(ranks.values()) == 2 * len(ranks)
