"""Real rows as the model will see them, the supervised part marked."""

from __future__ import annotations

from typing import Any

from luthier.data.lengths import split

SHOWN = 3


def marked_rows(prepared: Any) -> list[dict[str, Any]]:
    """A few training rows: place, runs of (text, supervised), and the target of a row that has one."""
    shown = []
    for features in prepared.train.rows[:SHOWN]:
        source = str(prepared.train.examples[features["row"]].source)
        runs = _runs(prepared.backbone.tokenizer, features)
        target = (
            prepared.task.shown(prepared.train.examples[features["row"]])[1]
            if features.keys() & {"target", "targets"}
            else None
        )
        shown.append(
            {"source": source, "tokens": sum(len(ids) for ids, _ in _parts(features)), "runs": runs, "target": target}
        )
    return shown


def _runs(tokenizer: Any, features: Any) -> list[tuple[str, bool]]:
    runs: list[tuple[str, bool]] = []
    for ids, taught in _parts(features):
        start = 0
        runs += [("\n", False)] if runs and ids else []  # between two sequences
        for at in range(1, len(ids) + 1):
            if at == len(ids) or taught[at] != taught[start]:
                runs.append((tokenizer.decode(ids[start:at]), bool(taught[start])))
                start = at
    return runs


def _parts(features: Any) -> list[tuple[list[int], list[bool]]]:
    """Ids, and whether each is supervised: of the row, then of the target that an encoder-decoder writes; or of each
    sequence of a row that has several."""
    if "lengths" in features and "supervised" in features:
        ids, taught = (split(features[key], features["lengths"]) for key in ("input_ids", "supervised"))
        return list(zip(ids, taught, strict=True))
    ids, target = features["input_ids"], features.get("target_ids", [])
    return [(ids, features.get("supervised", [False] * len(ids))), (target, [True] * len(target))]
