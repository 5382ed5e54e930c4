"""Say what a picture shows: a caption, learned from one or several that people wrote."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from luthier.evaluate import captions, translation
from luthier.evaluate.intervals import Metrics
from luthier.tasks.shown import FromPicture, PictureOptions
from luthier.tasks.source import scored_part
from luthier.types import Example, Finding

DEFAULTS = {"batch_size": 16, "overlong": "truncate", "epochs": 3.0}


class Options(PictureOptions):
    separator: str = Field("\n", description="between picture and caption")
    prompt: str = Field("Caption:", description="what is asked of a picture that comes without a text")
    max_new_tokens: int = Field(48, gt=0, description="the longest caption")
    train_on: str = Field(
        "all", pattern="^(all|first)$", description="the captions of a picture that are learned: all, or the first"
    )


class Task(FromPicture):
    formats = ("image-caption",)
    columns = ("prompt",)

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        extra = "" if translation.available() else "translate"
        told = "BLEU" if extra else "CIDEr-D, ROUGE-L and BLEU"
        return scored_part("task.captions", evaluation, told, extra, self.scored)

    def learned(self, example: Example) -> list[str]:
        captions = self.references(example)
        return captions if self.options.train_on == "all" else captions[:1]

    def score(self, written: list[str], references: list[list[str]]) -> Metrics:
        found = captions.with_intervals(written, references)
        return found | ({"bleu": translation.bleu(written, references)} if translation.available() else {})
