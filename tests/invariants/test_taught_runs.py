"""With a teacher the engine promises the same: one gradient for any split and layout, and a run goes on to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Trial, chat_rows, classify_rows, no_dropout, ready

import luthier
import tiny
from luthier.engine.checkpoint import latest

STEPS = 6


@pytest.fixture(scope="module")
def teachers(tiny_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a classifier a run, of a writer another random model."""
    folder = tmp_path_factory.mktemp("teacher")
    data = tiny.write_jsonl(folder / "rows.jsonl", classify_rows(16))
    run = luthier.tune(
        task="classify", model=tiny_folder("bert", seed=1), data={"train": data, "eval": 0}, method="full", steps=3,
        learning_rate=1e-3, out=str(folder),
    )  # fmt: skip
    return {"classify": str(run.folder), "chat": tiny_folder("llama", seed=1)}


def trial(task: str, teachers: dict[str, str], tiny_folder: Any, folder: Path, **keys: Any) -> Trial:
    rows = classify_rows(16, weighted=True) if task == "classify" else chat_rows(16, weighted=True)
    model = tiny_folder("bert", **no_dropout("bert")) if task == "classify" else tiny_folder("llama")
    keys = {"method": "lora", "lora": {"rank": 2}, "distill": {"teacher": teachers[task]}, **keys}
    return Trial(ready(model, task, rows, folder, steps=STEPS, out=str(folder), **keys), folder)


@pytest.mark.parametrize("task", ["classify", "chat"])
def test_gone_on_from_a_checkpoint_it_is_the_same_bits(
    task: str, teachers: dict[str, str], tiny_folder: Any, tmp_path: Path
) -> None:
    """With dropout on, in the student alone."""
    of = {"lora": {"rank": 2, "dropout": 0.1}}
    whole = trial(task, teachers, tiny_folder, tmp_path, **of).fit(steps=STEPS, save_every=1, keep=STEPS)
    found, _ = latest(whole.folder, "hash", step=3)
    resumed = trial(task, teachers, tiny_folder, tmp_path, **of).fit(steps=STEPS, resume=found, folder=tmp_path / "on")
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("task", ["classify", "chat"])
def test_one_gradient_for_any_split(
    task: str, packing: str, teachers: dict[str, str], tiny_folder: Any, tmp_path: Path
) -> None:
    """Sixteen weighted rows in one micro-batch, or in many; fp32, 1e-6 of the largest."""
    made = trial(task, teachers, tiny_folder, tmp_path, packing=packing)
    one, many = (made.fit(batch_size=16, micro_tokens=tokens).gradient for tokens in (4096, 24))
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    assert largest > 0
    for name, gradient in one.items():
        assert float((gradient - many[name]).abs().max()) <= 1e-6 * largest, name


def test_neither_teacher_nor_base_moves(teachers: dict[str, str], tiny_folder: Any, tmp_path: Path) -> None:
    made = trial("chat", teachers, tiny_folder, tmp_path)
    prepared = made.prepared
    both = [prepared.backbone.model, prepared.objective.teacher.backbone.model]
    chosen = {id(parameter) for parameter in prepared.adaptation.parameters.values()}
    before = [[p.detach().clone() for p in model.parameters() if id(p) not in chosen] for model in both]
    made.fit(steps=STEPS, learning_rate=1e-2)
    after = [[p for p in model.parameters() if id(p) not in chosen] for model in both]
    for first, second in zip(before, after, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not any(p.requires_grad or p.grad is not None for p in both[1].parameters())
