"""What a comparison asks of a finished run: the outcome of each row, what inference costs, what was forgotten."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.comparison.forgetting import Retention
from luthier.data.encode import Encoded, encode
from luthier.evaluate.paired import replicates
from luthier.runs.beside.reference import share_reference
from luthier.runs.composing import locate_model, open_base
from luthier.runs.folder import write_json
from luthier.runs.predictor import Predictor
from luthier.runs.rows import read_rows
from luthier.runs.run import Run
from luthier.types import Features, Finding, Refused

TIMED_ROWS, ROUNDS = 96, 3


@dataclass
class Finished:
    """A run, its model opened again as a user would, and its evaluation rows."""

    run: Run
    rows: Encoded

    @classmethod
    def open(cls, run: Run) -> Finished:
        recipe, task, objective = run.resolved.recipe, run.predictor.task, run.predictor.objective
        read = read_rows(run.resolved, task)
        task.study([*read.train, *read.selection], read.evaluation)  # as before training: labels, and text as numbers
        limit, policy = recipe.max_length or 2048, recipe.overlong or "truncate"
        return cls(run, encode(objective, read.evaluation, limit, policy, "data.eval"))

    def outcomes(self) -> dict[str, Any]:
        """The chosen metric: on all rows, on each of them, and on the resamples that every run draws alike."""
        predictor, rows, metric = self.run.predictor, self.rows.rows, str(self.run.resolved.recipe.metric)
        outputs = predictor.row_outputs(rows)
        if predictor.solved is not None and metric not in predictor.task.plain(outputs, rows):
            what = f"`{metric}` is not known of a classifier that is fitted without a loss"
            raise Refused(Finding("compare.metric", "metric", what, "compare by another metric of the task"))

        def value(indices: Sequence[int]) -> float:
            some, of = [outputs[i] for i in indices], [rows[i] for i in indices]
            found = predictor.task.plain(some, of)
            return found[metric] if metric in found else predictor.objective.mean_loss(some, of)

        per_row = [value([i]) for i in range(len(rows))]
        sources = [str(example.source) for example in self.rows.examples]
        return {
            "score": value(range(len(rows))),
            "n": len(rows),
            "per_row": [_short(one) for one in per_row],
            "replicates": [_short(one) for one in replicates(value, per_row)],
            "rows_hash": hashlib.sha256("\n".join(sources).encode()).hexdigest()[:16],
        }

    def inference(self, base: Predictor) -> dict[str, Any]:
        """Time for the same rows against the pretrained model's, in turns: the median of the ratios."""
        rows, ours = self.rows.rows[:TIMED_ROWS], self.run.predictor
        on_cpu = ours.backbone.device.type == "cpu"
        # Other programs of the machine don't count on a CPU; a GPU's work shows only in the time that passes.
        clock = time.process_time if on_cpu else time.perf_counter

        def timed(work: Callable[[], Any]) -> float:
            began = clock()
            work()
            return clock() - began

        def plain() -> Any:
            return base.reader.vectors(rows, base.pooling) if ours.solved is not None else base.row_outputs(rows)

        pairs = [(timed(lambda: ours.row_outputs(rows)), timed(plain)) for _ in range(ROUNDS + 1)][1:]
        ratio = statistics.median(mine / max(theirs, 1e-9) for mine, theirs in pairs)
        seconds, plain_seconds = (statistics.median(side) for side in zip(*pairs, strict=True))
        told = {"seconds": round(seconds, 4), "base_seconds": round(plain_seconds, 4)}
        return {"ratio": round(ratio, 3), "rows": len(rows), **told, "clock": "processor" if on_cpu else "wall"}

    def base(self) -> Predictor:
        """The pretrained model under the same task and layout. Its head, where it has a new one, is untrained."""
        ours = self.run.predictor
        path, findings = locate_model(self.run.resolved)
        if findings:
            raise Refused(*findings)
        dtype = str(ours.backbone.model.dtype).removeprefix("torch.")
        backbone = open_base(self.run.resolved, path, ours.backbone, dtype=dtype, config=ours.task.config())
        backbone.model.eval()
        objective = type(ours.objective)(self.run.resolved.objective_options, backbone, ours.objective.encoder)
        share_reference(ours.objective, objective)
        reader = replace(ours.reader, backbone=backbone)
        return replace(ours, backbone=backbone, objective=objective, reader=reader, solved=None)

    def retention(self, asked: Retention, base: Predictor, cache: Path) -> dict[str, Any]:
        """The same measure of the pretrained model and of the adapted one. The first is the same for every run."""
        model = self.run.info["model"]
        told = repr((asked.digest, model["path"], base.backbone.needs, str(base.backbone.model.dtype)))
        path = cache / f"retention-{hashlib.sha256(told.encode()).hexdigest()[:24]}.json"
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
        else:
            before = asked.measure(base)
            cache.mkdir(parents=True, exist_ok=True)
            write_json(path, before)
        after = asked.measure(self.run.predictor)
        return {"before": before, "after": after, "name": asked.name, "higher_is_better": asked.higher_is_better}


def _short(value: float) -> float | None:
    """Six significant digits; None for what is not a number (a rank correlation of one row)."""
    return float(f"{value:.6g}") if value == value else None


def weights_mb(final: Path) -> float:
    """What a method saves, without the tokenizer and the card, which are the same for all."""
    return round(sum(path.stat().st_size for path in final.rglob("*.safetensors")) / 2**20, 3)


def steps_on_selection(run: Run) -> list[Features]:
    """The evaluations during training, on the rows that checkpoints are chosen on."""
    path = run.folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [record for line in lines if (record := json.loads(line)).get("kind") == "eval"]
