"""Plan: from an instruction to a list of steps, or to a sequence of commands, by an encoder-decoder or a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from luthier.data.formats.plans import LINE
from luthier.evaluate import plans
from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.tasks.common import Encoder
from luthier.tasks.source import FromSource, WritingOptions, scored_part
from luthier.types import Example, Features, Finding, Refused

DEFAULTS = {"batch_size": 16, "overlong": "truncate", "epochs": 3.0}


class Options(WritingOptions):
    separator: str = Field("\n\nPlan:", description="between instruction and plan, where a decoder writes it")
    between: str = Field("\n", min_length=1, description="between steps as they are written; a blank: words are steps")


class Task(FromSource):
    formats = ("instruction-steps", "source-target")
    columns = ("instruction", "command", "goal", "task", "source", "text")
    sample = ""
    """A plan of several steps, by which it is seen whether a tokenizer keeps them apart."""

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        """Plans of one step each are most likely told apart by something else."""
        told = [self.references(example)[0] for example in train if self.references(example)]
        single = [text for text in told if len(plans.steps_of(text, self.options.between)) == 1]
        self.sample = next((text for text in told if text not in single), "")
        findings = scored_part("task.written", evaluation, "exact match and step accuracy", "")
        if told and len(single) == len(told) and any(" " in text.strip() for text in single):
            what = f"each of {len(told)} plans is one step, as no {self.options.between!r} is in it"
            mend = "set `plan.between`, for instance to a blank where each word is a command"
            findings.append(Finding("task.single-step", "plan.between", what, mend, severity="warning"))
        return findings

    def references(self, example: Example) -> list[str]:
        return [text.replace(LINE, self.options.between) for text in example.targets or []]

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        """Raises Refused where the tokenizer drops what stands between steps."""
        between, tokenizer = self.options.between, backbone.tokenizer
        kept = str(tokenizer.decode(tokenizer(self.sample)["input_ids"], skip_special_tokens=True))
        if len(plans.steps_of(kept, between)) < min(2, len(plans.steps_of(self.sample, between))):
            what = f"the tokenizer of {backbone.name} drops {between!r}, which is to stand between steps"
            raise Refused(Finding("task.between", "plan.between", what, 'give another, such as `plan.between: " ; "`'))
        return super().encoder(backbone, limit, overlong)

    def score(self, written: list[str], references: list[list[str]]) -> Metrics:
        """Exact match and step accuracy."""
        return plans.with_intervals(written, references, self.options.between)

    def written(self, row: Features, answer: dict[str, Any]) -> dict[str, Any]:
        parts = answer["text"].split(self.options.between)
        return answer | {"steps": [part.strip() for part in parts if part.strip()]}

    def right(self, example: Example, answer: dict[str, Any]) -> bool | None:
        between = self.options.between
        steps = plans.steps_of(answer["text"], between)
        return any(steps == plans.steps_of(known, between) for known in self.references(example))
