"""Promise 1: the same gradient for any split into micro-batches, packed or padded, for ragged and weighted rows.

Axes: T tokens of a row, V vocabulary, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    Trial,
    Wrapped,
    assert_close,
    assert_same_gradient,
    chat_rows,
    classify_rows,
    no_dropout,
    ready,
    summary_rows,
)

from luthier.data import collate
from luthier.engine import accumulate
from luthier.engine.fit import choose
from luthier.runs.prepared import Prepared

SPLITS = {
    "8x1": [[i] for i in range(8)],
    "4x2": [[0, 1], [2, 3], [4, 5], [6, 7]],
    "2x4": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "1x8": [list(range(8))],
    "ragged": [[5, 0, 7], [3], [1, 6, 2, 4]],
}
# softmax(q·(k + b)) = softmax(q·k): a key bias has no gradient, and Adam scales up what rounding leaves of it.
NO_GRADIENT = "key.bias"

CASES = {
    "bert, full": ("bert", "classify", "full"),
    "llama, lora": ("llama", "chat", "lora"),
    "llama, tied, full": ("llama-tied", "chat", "full"),
    "t5, lora": ("t5", "summarize", "lora"),
}
ROWS = {"classify": classify_rows, "chat": chat_rows, "summarize": summary_rows}
PACKED = [case for case in CASES if case != "t5, lora"]


def trial(case: str, tiny_folder: Callable[..., str], folder: Path, *, weighted: bool = True, **keys: Any) -> Trial:
    name, task, method = CASES[case]
    rows = ROWS[task](8, weighted=weighted)
    made = ready(tiny_folder(name, **no_dropout(name)), task, rows, folder, method=method, **keys)
    assert len(made.train.rows) == 8
    assert len({len(row["input_ids"]) for row in made.train.rows}) > 3
    return Trial(made, folder)


def split_into(monkeypatch: pytest.MonkeyPatch, groups: list[list[int]]) -> None:
    monkeypatch.setattr(accumulate, "micro_batches", lambda lengths, budget, *, padded, at_least, begun=(): groups)


def reference(prepared: Prepared, start: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient from transformers' own forward, a row at a time: Σ w·nll / Σ w over supervised units."""
    model, parameters = prepared.backbone.model, prepared.adaptation.parameters
    choose(model, prepared.adaptation)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(start[name])
    total, count = torch.zeros(()), 0.0
    with prepared.backbone.attention("sdpa"):
        for row in prepared.train.rows:
            if "target_ids" in row:
                target = torch.tensor(row["target_ids"])
                logits = model(input_ids=torch.tensor([row["input_ids"]]), labels=target[None]).logits[0]
                total = total + row["weight"] * F.cross_entropy(logits, target, reduction="sum")
                count += row["weight"] * len(target)
                continue
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            if "target" in row:
                total = total + row["weight"] * F.cross_entropy(logits, torch.tensor(row["target"]))
                count += row["weight"]
                continue
            for t, supervised in enumerate(row["supervised"]):
                if supervised and t:
                    total = total + row["weight"] * F.cross_entropy(logits[t - 1], torch.tensor(row["input_ids"][t]))
                    count += row["weight"]
        (total / count).backward()
    gradient = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in parameters.items()}
    model.zero_grad(set_to_none=True)
    return float(total.detach()) / count, gradient


@pytest.mark.parametrize("case", CASES)
def test_every_split_gives_the_gradient_of_the_rows_alone(
    case: str, tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trial(case, tiny_folder, tmp_path)
    loss, gradient = reference(made.prepared, made.start)
    for groups in SPLITS.values():
        split_into(monkeypatch, groups)
        trained = made.fit()
        assert_same_gradient(trained.gradient, gradient)
        assert trained.losses == [pytest.approx(loss, rel=1e-6)]
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradient.values()))
        assert trained.records[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_ten_steps_later_the_weights_are_the_same(
    case: str, tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trial(case, tiny_folder, tmp_path)
    expected = made.fit(steps=10, learning_rate=1e-4)
    moved = max(float((w - made.start[name]).abs().max()) for name, w in expected.weights.items())
    assert moved > 5e-4
    for groups in SPLITS.values():
        split_into(monkeypatch, groups)
        trained = made.fit(steps=10, learning_rate=1e-4)
        assert_close(trained.weights, expected.weights, 1e-6, but=NO_GRADIENT)
    monkeypatch.undo()
    for budget in (1, 33):
        assert_close(made.fit(steps=10, learning_rate=1e-4, micro_tokens=budget).weights, expected.weights, 1e-6,
                     but=NO_GRADIENT)  # fmt: skip


@pytest.mark.parametrize("case", PACKED)
def test_packed_and_padded_on_either_side_are_alike(
    case: str, tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = trial(case, tiny_folder, tmp_path / "packed")
    padded = trial(case, tiny_folder, tmp_path / "padded", packing="off")
    assert packed.prepared.backbone.layout == "packed"
    assert padded.prepared.backbone.layout == "padded"
    expected = packed.fit()
    right = padded.fit()
    monkeypatch.setattr("luthier.models.backbone.lay_out", partial(collate.lay_out, side="left"))
    left = padded.fit()
    for other in (right, left):
        assert_same_gradient(other.gradient, expected.gradient)
        assert other.losses == [pytest.approx(expected.losses[0], rel=1e-6)]


def test_the_loss_and_gradient_of_weighted_rows_by_hand(tiny_folder: Any, tmp_path: Path) -> None:
    """A head of zeros with bias (ln 1, ln 3) gives every row p = (1/4, 3/4).

    Two rows of class 0 with weight 1 and three rows of class 1 with weight 2: Σw = 8.
    loss = (2·1·ln 4 + 3·2·ln(4/3)) / 8.
    ∂loss/∂bias = Σ w (p - y) / Σw; for class 0: (2·1·(1/4 - 1) + 3·2·1/4) / 8 = 0; for class 1 the same: 0.
    With weight 1 everywhere: Σw = 5, class 0: (2·(-3/4) + 3/4) / 5 = -0.15.
    """
    texts = ["red", "green cat", "blue dog bird", "old tree", "small new river house"]
    rows = [{"text": text, "label": "no" if i < 2 else "yes", "weight": 1 + (i > 1)} for i, text in enumerate(texts)]
    model = tiny_folder("bert", **no_dropout("bert"))

    def fitted(rows: list[Any], folder: Path) -> Any:
        made = Trial(ready(model, "classify", rows, folder, method="full"), folder)
        made.start["classifier.weight"].zero_()
        made.start["classifier.bias"].copy_(torch.tensor([1.0, 3.0]).log())
        return made.fit(micro_tokens=8)

    weighted = fitted(rows, tmp_path / "weighted")
    assert weighted.losses == [pytest.approx((2 * math.log(4) + 6 * math.log(4 / 3)) / 8, rel=1e-6)]
    assert weighted.gradient["classifier.bias"].tolist() == pytest.approx([0.0, 0.0], abs=1e-7)
    plain = fitted([row | {"weight": 1} for row in rows], tmp_path / "plain")
    assert plain.losses == [pytest.approx((2 * math.log(4) + 3 * math.log(4 / 3)) / 5, rel=1e-6)]
    assert plain.gradient["classifier.bias"].tolist() == pytest.approx([-0.15, 0.15], rel=1e-6)


def test_a_batch_with_nothing_supervised_gives_loss_0_and_no_gradient(tiny_folder: Any, tmp_path: Path) -> None:
    """Beside supervised rows such a row adds nothing; alone it moves nothing."""
    made = trial("llama, lora", tiny_folder, tmp_path)
    rows = made.prepared.train.rows
    silent = [row | {"supervised": [False] * len(row["supervised"])} for row in rows]
    alone = made.fit(rows=silent, micro_tokens=20)
    assert alone.losses == [0.0]
    assert alone.records[0]["grad_norm"] == 0.0
    assert all(not gradient.any() for gradient in alone.gradient.values())
    assert_close(alone.weights, made.start, 0.0)
    with_them = made.fit(rows=rows[:4] + silent[4:], micro_tokens=20)
    without = made.fit(rows=rows[:4])
    assert_same_gradient(with_them.gradient, without.gradient)
    assert with_them.losses == [pytest.approx(without.losses[0], rel=1e-6)]


def test_the_engine_divides_by_what_the_objective_counts(tiny_folder: Any, tmp_path: Path) -> None:
    """A count twice as large halves loss and gradient: no mean is taken anywhere else."""
    made = trial("bert, full", tiny_folder, tmp_path)
    objective = made.prepared.objective

    def doubled(backbone: Any, batch: Any) -> Any:
        terms = objective.loss(backbone, batch)
        terms.count *= 2
        return terms

    expected = made.fit(micro_tokens=20)
    halved = made.fit(objective=Wrapped(objective, loss=doubled), micro_tokens=20)
    assert halved.losses == [pytest.approx(expected.losses[0] / 2, rel=1e-6)]
    assert_same_gradient({name: 2 * g for name, g in halved.gradient.items()}, expected.gradient)
