"""Answer a question about a picture in words: what most people answered is learned, and all of their answers count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from luthier.evaluate import vqa
from luthier.evaluate.intervals import Metrics
from luthier.tasks.shown import FromPicture, PictureOptions
from luthier.tasks.source import scored_part
from luthier.types import Example, Finding, Refused

DEFAULTS = {"batch_size": 32, "overlong": "truncate", "epochs": 3.0}


class Options(PictureOptions):
    separator: str = Field("\nAnswer:", description="between question and answer")
    max_new_tokens: int = Field(16, gt=0, description="the longest answer")


class Task(FromPicture):
    formats = ("image-question-answer",)
    columns = ("question", "text", "sentence")

    def parse(self, given: Any) -> Example:
        example = super().parse(given)
        if not self.source(example):
            what = "a question about a picture is answered, and there is none: give a row with `image` and `question`"
            mend = """such as '{"image": "photo.jpg", "question": "what colour is it?"}'"""
            raise Refused(Finding("run.question", "input", what, mend))
        return example

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        return scored_part("task.vqa", evaluation, "the share of right answers", "", self.scored)

    def score(self, written: list[str], references: list[list[str]]) -> Metrics:
        return vqa.with_intervals(written, references)

    def right(self, example: Example, answer: dict[str, str]) -> bool | None:
        known = self.references(example)
        return vqa.exact(answer["text"], known) if known else None
