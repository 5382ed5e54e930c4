"""What the trained model does worst on the rows held out: the rows themselves, and what it takes for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.runs.folder import write_json, write_lines
from luthier.runs.predictor import Predictor
from luthier.runs.prepared import Prepared

WORST = 16


def keep_errors(
    prepared: Prepared, predictor: Predictor, folder: Path, outputs: Sequence[Any], first: int
) -> list[dict[str, Any]]:
    """errors.jsonl: the rows of highest loss that are not right, worst first; confusion.json where answers are
    classes. ``outputs`` are those of the evaluation's rows.

    Returned are the ``first`` examples with the model's answers. What is written for an example is slow, so that each
    is answered once, for both.
    """
    examples, chosen = prepared.evaluation.examples, []
    if rows := prepared.evaluation.rows:
        pairs = predictor.task.confused(outputs, rows)
        if pairs is not None:
            write_json(folder / "confusion.json", confusion(pairs))
        chosen = _worst(prepared, predictor, outputs, pairs)
    shown = range(min(first, len(examples)))
    places = list(dict.fromkeys([*shown, *(at for at, _ in chosen)]))
    answered = dict(zip(places, predictor.alone().told([examples[at] for at in places]), strict=True))
    if rows:
        lines = [answered[at] | {"loss": loss} for at, loss in chosen if answered[at]["right"] is not True]
        write_lines(folder / "errors.jsonl", lines)
    return [answered[at] for at in shown]


def confusion(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """How often each class (first) was taken for each (second); only what occurs, as [class, taken for, count]."""
    counted = Counter(pairs)
    labels = sorted({label for pair in counted for label in pair})
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return {"labels": labels, "rows": len(pairs), "cells": [[true, told, n] for (true, told), n in ordered]}


def _worst(
    prepared: Prepared, predictor: Predictor, outputs: Sequence[Any], pairs: Sequence[tuple[str, str]] | None
) -> list[tuple[int, float | None]]:
    """(example, loss) by falling loss; an example of several rows has the loss of its worst."""
    rows, objective = prepared.evaluation.rows, prepared.objective
    if predictor.solved is not None:  # a fitted classifier has no loss: its wrong rows, as they come
        wrong = [row["row"] for row, (true, told) in zip(rows, pairs or [], strict=False) if true != told]
        return [(at, None) for at in wrong[:WORST]]
    if objective.couples:
        return []  # a row has no loss of its own
    losses: dict[int, float] = {}
    for row, output in zip(rows, outputs, strict=True):
        loss = objective.mean_loss([output], [row])
        losses[row["row"]] = max(loss, losses.get(row["row"], loss))
    return [(at, round(loss, 4)) for at, loss in sorted(losses.items(), key=lambda item: (-item[1], item[0]))[:WORST]]
