"""Answer questions: from a context, as the part of it that says so (an encoder), or in the model's own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from luthier.evaluate import answers
from luthier.evaluate.intervals import Metrics
from luthier.tasks.extract import Extract
from luthier.tasks.source import FromSource, WritingOptions, scored_part
from luthier.types import INLINE, Example, Finding

DEFAULTS = {"batch_size": 16, "overlong": "truncate", "epochs": 3.0}
FORMATS = ("squad", "open-question")


class Options(WritingOptions):
    kind: Literal["extract", "write"] = Field(
        "extract", description="find the answer in the context (a head on tokens), or write it (a model that writes)"
    )
    separator: str = Field("\n\nAnswer:", description="write: before the answer, where a decoder writes it")
    max_new_tokens: int = Field(32, gt=0, description="write: the longest answer")
    max_tokens: int = Field(30, gt=0, description="extract: the longest answer")
    stride: float = Field(0.25, ge=0, lt=1, description="extract: how much of a window the next one repeats")
    unanswerable: bool | None = Field(
        None, description="extract: may say that there is no answer; default: told by the training rows"
    )
    null_threshold: float = Field(
        0.0, description="extract: by how much no answer must score higher than the best one to be given"
    )
    absent: Literal["stop", "unanswerable"] = Field(
        "stop", description="extract: an answer that its context does not hold: stop, or learn that there is none"
    )


class Task:
    """Of two kinds: ``Extract`` and ``Write``."""

    formats = FORMATS
    metric = "f1"

    def __new__(cls, options: Options) -> Any:
        return Extract(options) if options.kind == "extract" else Write(options)


class Write(FromSource):
    """A question, and its context where there is one, as a source; the first answer as its target."""

    formats = FORMATS
    columns = ("question", "text")

    def source(self, example: Example) -> str:
        question, context = (example.question or "").strip(), (example.text or "").strip()
        return f"{question}\n\n{context}" if context else question

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        bare = [example for example in [*train, *evaluation] if not example.targets]
        if bare:
            what = f"{len(bare)} question(s) have no answer to write"
            mend = "leave them out, give an answer such as `unanswerable`, or use `answer.kind: extract`"
            return [Finding("data.empty-target", f"{bare[0].source}:answers", what, mend)]
        return scored_part("task.written", evaluation, "exact match and F1", "")

    def score(self, written: list[str], references: list[list[str]]) -> Metrics:
        return answers.with_intervals(written, references)

    def parse(self, given: Any) -> Example:
        if not isinstance(given, dict):
            return Example(INLINE, question=str(given))
        return Example(INLINE, question=str(given.get("question", "")), text=given.get("context"))

    def right(self, example: Example, answer: dict[str, Any]) -> bool | None:
        return bool(answers.scores(answer["text"], self.references(example))[0])
