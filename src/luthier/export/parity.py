"""Whether two models answer alike: the largest difference of an output, and the share of answers that are the same."""

from __future__ import annotations

from typing import Any

import torch

from luthier.objectives.online import OnlineObjective
from luthier.runs.predictor import Predictor
from luthier.runs.rows import read_rows
from luthier.runs.run import Run
from luthier.types import INLINE, Example, Refused

MOST = 32
WRITTEN = 16  # tokens of an answer that is compared
SAID = ("similarity", "score", "chosen", "rejected")
JUDGED = "preference"
TEXTS = ("A short text.", "Another one, somewhat longer than the first, to fill a few more positions.")


def probes(run: Run) -> list[Example]:
    """Rows that the run held out, where its data can still be read; else two texts."""
    task = run.predictor.task
    try:
        held_out = read_rows(run.resolved, task).evaluation[:MOST]
    except Refused:
        held_out = []
    return held_out or [_judged(text) if JUDGED in task.formats else _with_answer(task.parse(text)) for text in TEXTS]


def _judged(text: str) -> Example:
    """A prompt with two answers."""
    good, bad = ([{"role": "assistant", "content": said}] for said in ("An answer.", "Another one."))
    return Example(INLINE, messages=[{"role": "user", "content": text}], chosen=good, rejected=bad)


def _with_answer(example: Example) -> Example:
    if example.messages is not None:
        example.messages = [*example.messages, {"role": "assistant", "content": "An answer."}]
    return example


def compare(first: Predictor, second: Predictor, examples: list[Example]) -> dict[str, Any]:
    """``difference``: the largest of an output; ``relative``: to the largest output; ``agreement`` on ``prompts``."""
    one, other = (_told(predictor, examples) for predictor in (first, second))
    difference = float((one - other).abs().max())
    options = {"max_new_tokens": WRITTEN} if first.task.sample_options else {}
    told = [[p.task.decided(a) for a in p.task.answer(p, examples, **options)] for p in (first, second)]
    same = sum(a == b for a, b in zip(*told, strict=True))
    return {
        "difference": difference,
        "relative": difference / max(float(one.abs().max()), 1e-12),
        "agreement": same / len(examples),
        "prompts": len(examples),
    }


def _told(predictor: Predictor, examples: list[Example]) -> torch.Tensor:
    objective = predictor.objective
    if not isinstance(objective, OnlineObjective):
        return _flat(predictor.outputs(examples))
    rows = [row | {"row": at} for at, example in enumerate(examples) for row in objective.encode(example)]
    logs = predictor.reader.outputs(objective.reader, rows)  # of what was expected: what it writes is no number
    return torch.stack([logs_n.double().sum() for logs_n in logs])


def _flat(outputs: list[Any]) -> torch.Tensor:
    """Logits of a classifier, log-likelihoods of a language model, vectors or similarities of a retriever, scores."""
    rows = [_numbers(row) if isinstance(row, dict) else row for row in outputs]
    return torch.tensor(rows, dtype=torch.float64)


def _numbers(row: dict[str, Any]) -> list[float]:
    """Of what a row shows the part that a model says itself: not the loss, and no reward beside a reference."""
    if whole := row.get("vector") or row.get("chunk"):
        return whole
    return [row[name] for name in ("nll",) if name in row] or [row[name] for name in SAID if name in row]
