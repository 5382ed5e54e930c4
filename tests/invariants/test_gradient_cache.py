"""Promise 1 for coupled rows: the cached gradient is that of the whole batch in one go, for any split, with dropout on.

Axes: U vectors, D width.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import PLAN, Trial, Wrapped, assert_close, assert_same_gradient, ready, words
from torch import Tensor

import tiny
from luthier.engine import accumulate
from luthier.engine.batching import Order
from luthier.types import LossTerms, Refused

SPLITS = {
    "8x1": [[i] for i in range(8)],
    "2x4": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "ragged": [[5, 0, 7], [3], [1, 6, 2, 4]],
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert, full": ("bert", {"method": "full"}),
    "bert, padded": ("bert", {"method": "full", "packing": "off"}),
    "bert, all options": (
        "bert",
        {
            "method": "full",
            "contrastive": {"learn_temperature": True, "symmetric": True, "sizes": [32, 8], "temperature": 0.1},
        },
    ),
    "llama, lora": ("llama", {"method": "lora", "lora": {"rank": 4}}),
    "bert, scored": ("bert", {"method": "full"}),
    "bert, mse": ("bert", {"method": "full", "contrastive": {"loss": "mse"}}),
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def pair_rows(count: int, *, scored: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """Queries and passages of 1 to 9 words, some with negatives, weights 1, 2, 3; row 5 has the passage of row 2."""
    choose, rows = random.Random(seed), []
    for i in range(count):
        query, passage = (f"{i} {words(choose.randint(1, 9), choose)}" for _ in range(2))
        if scored:
            rows.append({"sentence1": query, "sentence2": passage, "score": choose.randint(-2, 2) / 2})
            continue
        row = {"query": query, "positive": passage + " red", "weight": 1 + i % 3}
        rows.append(row | ({"negatives": [f"{i} {words(3, choose)}" for _ in range(i % 3)]} if i % 3 else {}))
    if not scored:
        rows[5]["positive"] = rows[2]["positive"]
    return rows


def trial(case: str, tiny_folder: Callable[..., str], folder: Path, **changes: Any) -> Trial:
    name, keys = CASES[case]
    scored = case in ("bert, scored", "bert, mse")
    made = ready(tiny_folder(name, **changes), "retrieve", pair_rows(8, scored=scored), folder, **keys)
    assert len(made.train.rows) == 8
    return Trial(made, folder)


def quiet(case: str) -> dict[str, float]:
    return NO_DROPOUT if case.startswith("bert") else {}


def split_into(monkeypatch: pytest.MonkeyPatch, groups: list[list[int]]) -> None:
    monkeypatch.setattr(accumulate, "micro_batches", lambda lengths, budget, *, padded, at_least, begun=(): groups)


@pytest.mark.parametrize("case", CASES)
def test_every_split_gives_the_gradient_of_the_whole_batch(
    case: str, tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trial(case, tiny_folder, tmp_path, **quiet(case))
    split_into(monkeypatch, [list(range(8))])
    expected = made.fit()
    loss, gradient = by_autograd(made)
    assert expected.losses == [pytest.approx(loss, rel=1e-6)]
    assert_same_gradient(expected.gradient, gradient)
    for groups in SPLITS.values():
        split_into(monkeypatch, groups)
        trained = made.fit()
        assert_same_gradient(trained.gradient, expected.gradient)
        assert trained.losses == [pytest.approx(expected.losses[0], rel=1e-6)]
        assert trained.records[0]["rows"] == 8
    monkeypatch.undo()
    assert_same_gradient(made.fit(micro_tokens=30).gradient, expected.gradient)


def by_autograd(made: Trial) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient of all rows in one graph, a text at a time through transformers' own forward."""
    prepared = made.prepared
    backbone, objective, parameters = prepared.backbone, prepared.objective, prepared.adaptation.parameters
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(made.start[name])
            parameter.grad = None
    backbone.model.eval()
    vectors = []
    with backbone.attention("sdpa"):
        for row in prepared.train.rows:
            ids = row["input_ids"]
            for length in row["lengths"]:
                hidden_TD = backbone.model(input_ids=torch.tensor([ids[:length]])).last_hidden_state[0]
                vectors.append(hidden_TD.mean(0) if objective.pooling == "mean" else hidden_TD[-1])
                ids = ids[length:]
    terms = objective.coupled_loss(torch.stack(vectors), prepared.train.rows)
    (terms.total / terms.count).backward()
    # BERT's pooler is not asked, and so has no gradient.
    gradient = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for parameter in parameters.values():
        parameter.grad = None
    return float(terms.total.detach()) / terms.count, gradient


def test_ten_steps_later_the_weights_are_the_same(tiny_folder: Any, tmp_path: Path) -> None:
    made = trial("bert, all options", tiny_folder, tmp_path, **NO_DROPOUT)
    keys = {"steps": 10, "learning_rate": 1e-4}
    expected = made.fit(micro_tokens=10**6, **keys)
    assert abs(float(expected.weights["objective.logit_scale"] - made.start["objective.logit_scale"])) > 5e-4
    for budget in (1, 60):
        assert_close(made.fit(micro_tokens=budget, **keys).weights, expected.weights, 1e-6, but="key.bias")


def test_dropout_draws_the_same_in_both_passes(tiny_folder: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """With dropout a split draws its own, so the reference is made by hand: each group's vectors with a graph under
    the group's seed, one loss over all, one backward."""
    made = trial("bert, full", tiny_folder, tmp_path, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    prepared, groups = made.prepared, SPLITS["ragged"]
    split_into(monkeypatch, groups)
    passes: list[Tensor] = []
    objective = prepared.objective

    def seen(backbone: Any, batch: Any) -> Tensor:
        vectors_UD = objective.vectors(backbone, batch)
        passes.append(vectors_UD.detach().clone())
        return vectors_UD

    trained = made.fit(objective=Wrapped(objective, vectors=seen))
    for first, second in zip(passes[:3], passes[3:], strict=True):
        assert torch.equal(first, second)

    parameters = prepared.adaptation.parameters
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(made.start[name])
            parameter.grad = None
    prepared.backbone.model.train()
    rows = [prepared.train.rows[i] for i in Order(8, 8, PLAN.seed, PLAN.data_hash).step(0)]
    parts = []
    for index, group in enumerate(groups):
        batch = objective.collate([rows[i] for i in group])
        torch.manual_seed(index)  # PLAN.seed and the step are 0
        parts.append(objective.vectors(prepared.backbone, batch))
    terms = objective.coupled_loss(torch.cat(parts), [rows[i] for group in groups for i in group])
    (terms.total / terms.count).backward()
    gradient = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    assert_same_gradient(trained.gradient, gradient)
    assert trained.losses == [pytest.approx(float(terms.total.detach()) / terms.count, rel=1e-6)]
    quiet_run = trial("bert, full", tiny_folder, tmp_path / "quiet", **NO_DROPOUT).fit()
    assert abs(quiet_run.losses[0] - trained.losses[0]) > 1e-4


def test_a_split_of_the_loss_itself_would_be_another_loss(tiny_folder: Any, tmp_path: Path) -> None:
    """Rows of a micro-batch contrasted among themselves alone have fewer candidates: what the cache is for."""
    made = trial("bert, full", tiny_folder, tmp_path, **NO_DROPOUT)
    whole = made.fit(micro_tokens=10**6).losses[0]
    halves = [made.fit(rows=made.prepared.train.rows[half], batch_size=4).losses[0] for half in (slice(4), slice(4, 8))]
    assert max(halves) < whole - 0.1


@pytest.mark.parametrize("failing_pass", ["first", "second"])
def test_out_of_memory_halves_the_micro_batch_and_not_the_result(
    failing_pass: str, tiny_folder: Any, tmp_path: Path
) -> None:
    made = trial("bert, all options", tiny_folder, tmp_path, **NO_DROPOUT)
    objective, failed = made.prepared.objective, [0]

    def vectors(backbone: Any, batch: Any) -> Tensor:
        if not failed[0] and torch.is_grad_enabled() == (failing_pass == "second"):
            failed[0] += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return objective.vectors(backbone, batch)

    plain = made.fit(steps=3, micro_tokens=80)
    trained = made.fit(steps=3, micro_tokens=80, objective=Wrapped(objective, vectors=vectors))
    assert_close(trained.weights, plain.weights, 1e-6, but="key.bias")
    (event,) = (record for record in trained.records if record["kind"] == "event")
    assert "40 tokens at a time" in event["text"]


def test_a_row_that_can_never_fit_is_refused(tiny_folder: Any, tmp_path: Path) -> None:
    made = trial("bert, full", tiny_folder, tmp_path, **NO_DROPOUT)

    def vectors(backbone: Any, batch: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(Refused) as refused:
        made.fit(objective=Wrapped(made.prepared.objective, vectors=vectors))
    assert [finding.code for finding in refused.value.findings] == ["machine.memory"]


def test_what_is_not_finite_names_the_rows_and_moves_nothing(tiny_folder: Any, tmp_path: Path) -> None:
    made = trial("bert, all options", tiny_folder, tmp_path, **NO_DROPOUT)
    objective = made.prepared.objective

    def vectors(backbone: Any, batch: Any) -> Tensor:
        broken = torch.tensor([float("nan") if 3 in batch.rows else 0.0])
        return objective.vectors(backbone, batch) + broken

    trained = made.fit(micro_tokens=1, objective=Wrapped(objective, vectors=vectors))
    (event,) = (record for record in trained.records if record["kind"] == "event")
    assert event["rows"] == [3]
    assert_close(trained.weights, made.start, 0.0)


def test_vectors_may_be_of_anything(tiny_folder: Any, tmp_path: Path) -> None:
    """The engine asks for vectors and a loss of them, not for texts: here one vector a row, and the loss their spread.

    L = Σ_k |v_k - mean v|², so ∂L/∂v_k = 2 (v_k - mean v): coupled through the mean.
    """
    made = trial("bert, full", tiny_folder, tmp_path, **NO_DROPOUT)
    objective = made.prepared.objective

    def vectors(backbone: Any, batch: Any) -> Tensor:
        starts = torch.tensor([0, *batch["texts"].cumsum(0).tolist()[:-1]])
        return objective.vectors(backbone, batch)[starts]

    def coupled_loss(vectors_KD: Tensor, rows: Any) -> LossTerms:
        return LossTerms((vectors_KD - vectors_KD.mean(0)).square().sum(), float(len(rows)))

    spread = Wrapped(objective, vectors=vectors, coupled_loss=coupled_loss)
    expected = made.fit(objective=spread, micro_tokens=10**6)
    assert_same_gradient(made.fit(objective=spread, micro_tokens=1).gradient, expected.gradient)


def test_rows_of_the_toy_tokenizer_are_ragged(tiny_folder: Any, tmp_path: Path) -> None:
    made = trial("bert, full", tiny_folder, tmp_path)
    assert len({len(row["input_ids"]) for row in made.prepared.train.rows}) > 4
    assert {len(row["lengths"]) for row in made.prepared.train.rows} == {2, 3, 4}
    assert tiny.WIDTH == 32


PAIRS = {
    "clip, full": ("clip", {"method": "full"}),
    "siglip, lora": ("siglip", {"method": "lora", "lora": {"rank": 4}}),
    "towers, full": ("towers", {"method": "full"}),
}


def pictured(folder: Path, kind: str, keys: dict[str, Any], tiny_folder: Callable[..., str]) -> Trial:
    """Eight pairs of a picture and 1 to 9 words, two of one picture and two that say the same; some with negatives."""
    choose, rows = random.Random(0), []
    for i in range(8):
        picture = tiny.save_picture(folder / f"{min(i, 6)}.png", ("red", "green", "blue")[i % 3], seed=min(i, 6))
        rows.append({"image": picture.name, "caption": words(choose.randint(1, 9), choose), "weight": 1 + i % 3})
    rows[5]["caption"] = rows[2]["caption"]
    rows[1]["negatives"], rows[4]["negatives"] = ["old dog", "the small river and a tree"], "blue cat"
    rows[4]["negative_images"], rows[7]["negative_images"] = ["0.png", "1.png"], "2.png"
    model: Any = {"image": "", "text": tiny_folder("bert", **NO_DROPOUT), "fuse": "similarity"}
    if kind == "towers":
        model["image"] = tiny.save_image_model("vit", folder / "vit")
    else:
        model = tiny.save_dual_model(kind, folder / kind)
    return Trial(ready(model, "match", rows, folder, **keys), folder)


@pytest.mark.parametrize("case", PAIRS)
def test_pictures_with_captions_have_the_gradient_of_the_whole_batch(
    case: str, tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, keys = PAIRS[case]
    made = pictured(tmp_path, kind, keys, tiny_folder)
    split_into(monkeypatch, [list(range(8))])
    expected = made.fit()
    assert "objective.logit_scale" in expected.gradient
    for groups in SPLITS.values():
        split_into(monkeypatch, groups)
        trained = made.fit()
        assert_same_gradient(trained.gradient, expected.gradient)
        assert trained.losses == [pytest.approx(expected.losses[0], rel=1e-6)]
