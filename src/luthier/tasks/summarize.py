"""Write a summary of a document: by an encoder-decoder, or by a decoder after a separator."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from luthier.evaluate import rouge
from luthier.evaluate.intervals import Metrics
from luthier.tasks.source import FromSource, WritingOptions, scored_part
from luthier.types import Example, Finding

DEFAULTS = {"batch_size": 16, "overlong": "truncate", "epochs": 3.0}


class Options(WritingOptions):
    # Radford et al. 2019 (Language Models are Unsupervised Multitask Learners), section 3.6.
    separator: str = Field("\n\nTL;DR:", description="between document and summary, where a decoder writes it")


class Task(FromSource):
    formats = ("document-summary",)
    columns = ("document", "article", "text")

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        return scored_part("task.rouge", evaluation, "ROUGE", "" if rouge.available() else "summarize")

    @property
    def scores(self) -> bool:
        return rouge.available()

    def score(self, written: list[str], references: list[list[str]]) -> Metrics:
        return rouge.with_intervals(written, references)
