"""Promise 4: out of memory, the micro-batch shrinks; the effective batch and the result don't."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Trained, Trial, Wrapped, assert_close, chat_rows, classify_rows, no_dropout, ready

from luthier.types import LossTerms, Refused

STEPS, BATCH = 6, 8
Fails = Callable[[int, Any], bool]


def gpu() -> BaseException:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def cpu() -> BaseException:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried")


@pytest.fixture
def made(tiny_folder: Any, tmp_path: Path) -> Trial:
    rows = chat_rows(16, weighted=True)
    prepared = ready(tiny_folder("llama"), "chat", rows, tmp_path, method="lora", lora={"rank": 4})
    return Trial(prepared, tmp_path)


def failing(made: Trial, fails: Fails, error: Callable[[], BaseException] = gpu, *, backward: bool = False) -> Wrapped:
    """The objective, out of memory at the calls (counted from 0) and batches that ``fails`` says."""
    objective, calls = made.prepared.objective, [0]

    def loss(backbone: Any, batch: Any) -> LossTerms:
        call = calls[0]
        calls[0] += 1
        hit = fails(call, batch)
        if hit and not backward:
            raise error()
        terms = objective.loss(backbone, batch)
        if hit:

            def stop(gradient: torch.Tensor) -> torch.Tensor:
                raise error()

            terms.total.register_hook(stop)
        return terms

    return Wrapped(objective, loss=loss)


def fit(made: Trial, **changes: Any) -> Trained:
    return made.fit(**{"steps": STEPS, "batch_size": BATCH, "learning_rate": 1e-3, "save_every": 1, **changes})


def events(trained: Trained) -> list[dict[str, Any]]:
    return [record for record in trained.records if record["kind"] == "event"]


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("error", [gpu, cpu, MemoryError])
def test_the_result_is_that_of_a_run_with_memory_enough(made: Trial, error: Any, backward: bool) -> None:
    """The second micro-batch of the second step fails, when the first has its gradient already; later another."""
    plain = fit(made, micro_tokens=128)
    failed = failing(made, lambda call, batch: call in (3, 12), error, backward=backward)
    trained = fit(made, objective=failed, micro_tokens=128)
    assert_close(trained.weights, plain.weights, 1e-6)
    assert trained.losses == pytest.approx(plain.losses, rel=1e-6)
    first, second = events(trained)
    assert first["event"] == second["event"] == "oom"
    assert "64 tokens at a time" in first["text"]
    assert "still 8 rows a step" in first["text"]
    assert "32 tokens at a time" in second["text"]
    assert [record["rows"] for record in trained.records if record["kind"] == "train"] == [BATCH] * STEPS


def test_the_size_that_fits_is_kept_and_found_within_two_tries(made: Trial) -> None:
    """Memory for a quarter of the rows at a time, whatever the budget was: at most two halvings in all steps."""
    sizes = [len(row["input_ids"]) for row in made.prepared.train.rows]
    room = max(max(sizes), sum(sizes) // 4)
    trained = fit(made, objective=failing(made, lambda call, batch: batch.tokens > room), micro_tokens=10**6)
    assert 1 <= len(events(trained)) <= 2
    assert trained.progress.micro_tokens <= room
    assert trained.progress.step == STEPS


def test_a_row_that_cannot_fit_is_refused(made: Trial) -> None:
    rows = made.prepared.train.rows
    giant = max(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    with pytest.raises(Refused) as refusal:
        fit(made, objective=failing(made, lambda call, batch: giant in batch.rows), batch_size=16)
    [finding] = refusal.value.findings
    assert finding.code == "machine.memory"
    assert f"one row of {len(rows[giant]['input_ids'])} tokens" in finding.what
    assert "max_length" in finding.mend


def test_another_error_is_not_taken_for_it(made: Trial) -> None:
    def error() -> BaseException:
        return RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        fit(made, objective=failing(made, lambda call, batch: call == 2, error))


def test_padded_rows_too(tiny_folder: Any, tmp_path: Path) -> None:
    model = tiny_folder("bert", **no_dropout("bert"))
    made = Trial(ready(model, "classify", classify_rows(16), tmp_path, method="lora", packing="off"), tmp_path)
    plain = fit(made)
    trained = fit(made, objective=failing(made, lambda call, batch: call in (1, 2)))
    assert len(events(trained)) == 2
    assert_close(trained.weights, plain.weights, 1e-6)
