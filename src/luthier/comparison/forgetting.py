"""What a model still knows of something else, before and after: `--retention FILE`.

Rows of text (or of the task's own format) for a model that writes: the language-model loss on them. Rows with labels,
for any model: how well a logistic regression on the trunk's vectors of those rows tells the labels, in five-fold
cross-validation. A trunk that forgets gives vectors that no longer tell them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.data.encode import encode
from luthier.data.formats.choose import read_examples
from luthier.objectives import OBJECTIVES
from luthier.runs.predictor import Predictor
from luthier.tasks import TASKS
from luthier.types import Example, Finding, Refused

FOLDS = 5
LABELLED, TEXT = "text-label", "plain-text"
LONGEST = 512
MOST_ROWS = 2000


class Retention:
    """Rows of something that the model is not trained on. Raises Refused where they can't serve this task."""

    def __init__(self, file: str, task: str):
        read = read_examples([file], base=Path.cwd(), prefer=TASKS.load(task).Task.formats)
        errors = [finding for finding in read.findings if finding.severity == "error"]
        if errors:
            raise Refused(*errors)
        self.task, self.format, self.examples = task, str(read.format), read.examples[:MOST_ROWS]
        self.probe = self.format == LABELLED
        wanted = _refusal(self, TASKS.load(task).Task)
        if wanted:
            raise Refused(Finding("compare.retention", file, *wanted))
        self.name = "probe accuracy" if self.probe else "loss"
        self.higher_is_better = self.probe
        told = repr([(example.text, example.messages, example.label) for example in self.examples])
        self.digest = hashlib.sha256(told.encode()).hexdigest()

    def measure(self, predictor: Predictor) -> float:
        return self._probe(predictor) if self.probe else self._loss(predictor)

    def _loss(self, predictor: Predictor) -> float:
        """Nats per token."""
        backbone, task = predictor.backbone, predictor.task
        if self.format not in task.formats:
            task = TASKS.load("complete").Task(TASKS.load("complete").Options())
        limit = min(LONGEST, backbone.max_positions or LONGEST)
        encoder = task.encoder(backbone, limit, "truncate")
        module = OBJECTIVES.load("next_token")
        objective = module.Objective(module.Options(), backbone, encoder)
        rows = encode(objective, task.pieces(self.examples), limit, "truncate", "retention").rows
        return float(objective.mean_loss(predictor.reader.outputs(objective, rows), rows))

    def _probe(self, predictor: Predictor) -> float:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_score

        backbone = predictor.backbone
        limit = min(LONGEST, backbone.max_positions or LONGEST)
        texts = [example.text or "" for example in self.examples]
        ids = backbone.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
        rows = [{"row": i, "input_ids": one} for i, one in enumerate(ids)]
        vectors_KD = predictor.reader.vectors(rows, "last" if backbone.causal else "mean").numpy()
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
        labels = [str(example.label) for example in self.examples]
        found = cross_val_score(LogisticRegression(max_iter=1000), vectors_KD, labels, cv=folds)
        return float(found.mean())


def _refusal(asked: Retention, task: Any) -> tuple[str, str] | None:
    """(what, mend) where these rows can't serve."""
    if not asked.probe:
        if LABELLED in task.formats:
            what = f"these rows are `{asked.format}`, and a classifier has no language-model loss to compare"
            return what, "give rows with labels of another task: a probe on the trunk's vectors is fitted to them"
        if asked.format not in (*task.formats, TEXT):
            return f"these rows are `{asked.format}`", f"give {TEXT}, {LABELLED}, or the format of the task"
        return None
    if any(not isinstance(label, str | int) for label in _labels(asked.examples)):
        return "a probe needs one label a row", "give rows of one label each"
    rarest = min(Counter(map(str, _labels(asked.examples))).items(), key=lambda pair: pair[1])
    if rarest[1] < FOLDS:
        what = f"the label {rarest[0]!r} has {rarest[1]} rows, fewer than the {FOLDS} folds"
        return what, f"give at least {FOLDS} rows of each label"
    if len({str(label) for label in _labels(asked.examples)}) < 2:
        return "all rows have one label", "give rows of at least two classes"
    return None


def _labels(examples: Sequence[Example]) -> list[Any]:
    return [example.label for example in examples]
