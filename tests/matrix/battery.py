"""What every working cell must show: it ran, it learned, only what was chosen moved, and it opens again the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import plain
import pytest
import torch
import toys
from safetensors.torch import load_file
from table import CLASSIFY, METHODS, Cell

import tiny
from luthier import Run, load
from luthier.types import Example

STEPS = 18


def recipe(cell: Cell, model: str, data: dict[str, str], out: Path) -> dict[str, Any]:
    """The keys that a person would write for this cell."""
    return {
        "task": "classify" if cell.task in CLASSIFY else cell.task, "model": model, "data": data, "out": str(out),
        "steps": STEPS, "batch_size": toys.TRAIN, "eval_every": STEPS, "final": "last", "schedule": "constant",
        "warmup": 0, **METHODS[cell.method],
    }  # fmt: skip


def assert_learned(run: Run, cell: Cell, train: str) -> None:
    """The loss falls by a tenth; a fitted classifier beats the best constant answer on the rows it was fitted to.

    Constants: either colour is right for half of the rows (accuracy 1/2); 1.5 and -0.5 lie 1 from their mean (mae 1);
    of three labels every row has one and half of them one more, so naming all gives precision 1/2, recall 1, F1 2/3.
    """
    if not cell.method.startswith("features"):
        records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        losses = [record["loss"] for record in records if record["kind"] == "train"]
        assert len(losses) == STEPS
        assert all(map(math.isfinite, losses))
        # A prompt alone steers a frozen random model, which has learned nothing that it could bring out, but little.
        least = 0.97 if cell.method.startswith("prompt") and cell.task not in CLASSIFY else 0.9
        assert sum(losses[-3:]) < least * sum(losses[:3]), losses
        return
    metrics = {name: value["value"] for name, value in run.evaluate(train)["metrics"].items()}
    assert {
        "single": metrics.get("accuracy", 0) > 0.6,
        "multi": metrics.get("f1_micro", 0) > 0.7,
        "regression": metrics.get("mae", 9) < 0.9,
    }[cell.task], metrics


def chosen(cell: Cell, name: str) -> bool:
    """Whether a tensor of the checkpoint is one that the method trains, told by transformers' names."""
    leaf = name.rpartition(".")[2]
    after_blocks = any(part in name for part in ("ln_f", "final_norm", "model.norm."))
    in_head = name.startswith(("lm_head.", "head.", "classifier.", "score."))
    is_norm = any(part in name.lower() for part in ("norm", ".ln_"))
    return {
        "full": True,
        "freeze: head": in_head,
        "freeze: last 1": f".{tiny.LAYERS - 1}." in name or after_blocks or in_head,
        "freeze: norms": is_norm,
        "freeze: biases": leaf == "bias",
    }[cell.method]


def assert_only_chosen_moved(run: Run, cell: Cell, model: str) -> None:
    """Frozen tensors are bit-equal to the checkpoint's; of the chosen ones most have moved."""
    final = run.folder / "final"
    if cell.method.startswith("features"):
        assert not list(final.glob("model*.safetensors"))
        return
    if cell.method.startswith("lora"):
        saved = load_file(final / "adapter_model.safetensors")
        lora = {name for name in saved if ".lora_" in name}
        assert lora
        assert all("layer" in name or ".h." in name for name in lora)
        head = saved.keys() - lora
        assert bool(head) == (cell.task in CLASSIFY)
        assert all(any(part in name for part in ("classifier", "score", "pooler", ".head.")) for name in head), head
        return
    if cell.method.startswith(("prompt", "prefix")):
        saved = load_file(final / "adapter_model.safetensors")
        assert len(saved.pop("prompt_embeddings")) == 6
        assert bool(saved) == (cell.task in CLASSIFY)
        assert all(any(part in name for part in ("classifier", "score", "pooler", ".head.")) for name in saved), saved
        return
    before, after = load_file(Path(model) / "model.safetensors"), load_file(final / "model.safetensors")
    common = before.keys() & after.keys()
    assert len(common) > 10
    moved = {name for name in common if not torch.equal(before[name], after[name])}
    meant = {name for name in common if chosen(cell, name)}
    if cell.task in CLASSIFY:  # what the checkpoint knows of the head trains with what is new in it
        meant |= {name for name in common if name.startswith("head.")}
    assert moved <= meant, sorted(moved - meant)
    assert len(moved) >= len(meant) / 2, sorted(meant - moved)


def assert_opens_the_same(run: Run, cell: Cell, held_out: str) -> Run:
    """Opened anew, the metrics are those at the end of training, and the answers those in the samples."""
    again = load(run.folder)
    # PiSSA is saved as LoRA on the original weights, which regroups the same sums.
    close = {"rel": 1e-4, "abs": 1e-5} if cell.method == "lora: pissa" else {"rel": 1e-6, "abs": 1e-9}
    found, expected = again.evaluate(held_out)["metrics"], run.result["after"]
    for name in expected:
        assert found[name]["value"] == pytest.approx(expected[name]["value"], nan_ok=True, **close), name
    samples = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]
    if cell.method != "lora: pissa":
        answers = again.predict(_inputs(held_out), **again.predictor.task.sample_options)
        shown = [again.predictor.task.shown_answer(answer) for answer in answers]
        assert shown == [sample["after"] for sample in samples]
    return again


def assert_plain_gives_the_same(run: Run, cell: Cell, model: str, held_out: str) -> None:
    """transformers and PEFT alone, a row at a time, give the logits that we give for all rows at once.

    Within 1e-5 of the largest; 1e-4 for PiSSA, which is saved as LoRA on the original weights. What PEFT would open to
    other logits it must refuse.
    """
    predictor, final = run.predictor, run.folder / "final"
    if not cell.peft_opens:
        with pytest.raises((KeyError, ValueError)):
            plain.open_model(final, model, classifies=cell.task in CLASSIFY)
        return
    examples = [_example(row) for row in _inputs(held_out)[:4]]
    rows = [row | {"row": at} for at, example in enumerate(examples) for row in predictor.objective.encode(example)]
    features = cell.method.startswith("features")
    theirs = None if features else plain.open_model(final, model, classifies=cell.task in CLASSIFY)
    ours = predictor.row_outputs(rows) if cell.task in CLASSIFY else _token_logits(predictor, rows)
    ids = [row["input_ids"] for row in rows]
    expected = [plain.features(final, model, one) if features else plain.logits(theirs, one) for one in ids]
    bound = 1e-4 if cell.method == "lora: pissa" else 1e-5
    bound *= max(1.0, *(float(logits.abs().max()) for logits in expected))
    for found, logits in zip(ours, expected, strict=True):
        logits = logits if cell.task in CLASSIFY else logits[-len(found) :]  # PEFT gives the virtual tokens' as well
        torch.testing.assert_close(torch.as_tensor(found), logits, atol=bound, rtol=0)


@torch.no_grad()
def _token_logits(predictor: Any, rows: list[dict[str, Any]]) -> list[torch.Tensor]:
    """(T, V) of each row, all rows in one batch."""
    batch = predictor.objective.collate(rows)
    logits_TV = predictor.backbone.token_logits(predictor.backbone.hidden(batch))
    places = zip(batch["starts"].tolist(), batch["lengths"].tolist(), strict=True)
    return [logits_TV[start : start + length] for start, length in places]


def _inputs(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def _example(row: dict[str, Any]) -> Example:
    from luthier.types import INLINE

    return Example(INLINE, text=row.get("text"), messages=row.get("messages"))
