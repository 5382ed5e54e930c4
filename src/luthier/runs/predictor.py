"""A model in use: outputs and answers for examples, before, during and after training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from luthier.data.encode import Encoded
from luthier.evaluate.outputs import Reader
from luthier.models.backbone import Backbone
from luthier.runs.finding.passages import Passages
from luthier.tasks.common import Marks
from luthier.types import Example, Features, Solved


@runtime_checkable
class Compares(Protocol):
    """An objective that judges rows beside others, which are none of the data."""

    def compared_with(self, rows: Sequence[Features]) -> list[Features]: ...


@dataclass
class Predictor:
    """``objective.settle`` says what each row shows when all rows are seen together, where rows are coupled.

    ``solved`` (with its ``pooling``) is the fitted classifier of a method that trains without gradients. ``passages``
    are put before what is asked, as they were before what was learned.
    """

    task: Any
    backbone: Backbone
    objective: Any
    reader: Reader
    solved: Solved | None = None
    pooling: str = ""
    passages: Passages | None = None

    def alone(self) -> Predictor:
        """The same, not sharing its rows among processes."""
        return replace(self, reader=replace(self.reader, processes=None))

    def row_outputs(self, rows: Sequence[Features]) -> list[Any]:
        if self.solved is not None:
            return self.solved.outputs(self.reader.vectors(rows, self.pooling))
        both = [*rows, *self.objective.compared_with(rows)] if isinstance(self.objective, Compares) else rows
        outputs = self.reader.outputs(self.objective, both)
        return self.objective.settle(outputs, both)[: len(rows)] if self.objective.couples else outputs

    def outputs(self, examples: Sequence[Example]) -> list[Any]:
        rows = [
            features | {"row": i} for i, example in enumerate(examples) for features in self.objective.encode(example)
        ]
        return self.row_outputs(rows) if rows else []

    def metrics(self, rows: list[Features]) -> dict[str, float]:
        """Loss and the task's metrics, plain: what is watched during training."""
        outputs = self.row_outputs(rows)
        return {"loss": self.objective.mean_loss(outputs, rows), **self.task.plain(outputs, rows)}

    def judged(self, rows: list[Features], outputs: list[Any] | None = None) -> dict[str, Any]:
        """The same with 95 % intervals; ``outputs`` of the rows are computed where they are not given."""
        outputs = self.row_outputs(rows) if outputs is None else outputs
        found = self.task.with_intervals(outputs, rows)
        if "loss" not in found and self.solved is None:
            found["loss"] = {"value": self.objective.mean_loss(outputs, rows)}
        return found

    def generated(self, encoded: Encoded) -> dict[str, Any]:
        """Metrics of answers that are written for it."""
        return self.task.generated(self.alone(), encoded.examples)

    def answers(self, given: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
        """Answers to inputs as a person gives them: strings, rows or lists of messages."""
        found = None
        if self.passages is not None:
            given, found = self.passages.into_inputs(given)
        answers = self.task.answer(self, [self.task.parse(one) for one in given], **options)
        for answer, those in zip(answers, found or [], strict=False):
            answer["passages"] = those
        return answers

    def samples(self, encoded: Encoded, count: int) -> list[dict[str, Any]]:
        """Some held-out rows with the model's answers, as a reader should see them."""
        return self.told(encoded.examples[:count])

    def told(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Examples with the model's answers."""
        if not examples:
            return []
        answers = self.task.answer(self, examples, **self.task.sample_options)
        rows = []
        for example, answer in zip(examples, answers, strict=True):
            shown, target = self.task.shown(example)
            right = self.task.right(example, answer)
            row = {"source": str(example.source), "input": shown, "target": target, "right": right}
            spans = {"spans": self.task.marks(example, answer)} if isinstance(self.task, Marks) else {}
            told = {"answer": self.task.shown_answer(answer), "decided": self.task.decided(answer)}
            rows.append(row | told | spans)
        return rows
