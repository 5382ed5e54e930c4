"""What the tasks share that write a target from a source: how a row is laid out, how an answer is searched for, and the
metrics of what is written.

A row is encoded by ``text/document.py``: as one text for a decoder, as source and target for an encoder-decoder. Of
several targets of one source the first is learned, or what a task says: a source counts once; all stay references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from luthier.data.text.document import one_text, source_and_target
from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.options import Options as Section
from luthier.tasks.common import Ask, Encoder
from luthier.tasks.language import LanguageTask
from luthier.types import INLINE, Example, Features, Finding

SHOWN = 600  # characters of a source
UNLIMITED = 2**31
SCORED = 100  # rows whose targets are written and scored: writing takes far longer than reading


class WritingOptions(Section):
    """How an answer is searched for, and how long it may be."""

    prefix: str = Field("", description="before each source; the first T5 models know `summarize: ` and others")
    separator: str = Field("\n\n", description="between source and target, where a decoder writes it")
    num_beams: int = Field(1, gt=0, description="of the search for an answer; 1 is greedy")
    max_new_tokens: int = Field(128, gt=0, description="the longest answer")
    min_new_tokens: int = Field(0, ge=0, description="the shortest answer")
    # Wu et al. 2016 (arXiv 1609.08144), section 7: the score is divided by length ** penalty.
    length_penalty: float = Field(
        1.0, description="of the beam search: above 0 favours long answers, below it short ones"
    )
    # Paulus et al. 2018 (arXiv 1705.04304), section 2.5.
    no_repeat_ngram_size: int = Field(0, ge=0, description="no n words (tokens) in a row are written twice; 0: may be")

    @model_validator(mode="after")
    def _in_order(self) -> WritingOptions:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens: {self.min_new_tokens} is over max_new_tokens: {self.max_new_tokens}")
        return self

    def search(self) -> dict[str, Any]:
        """What ``generate`` is told."""
        names = ("num_beams", "max_new_tokens", "min_new_tokens", "length_penalty", "no_repeat_ngram_size")
        return self.model_dump(include=set(names))


class FromSource(LanguageTask):
    """A subclass says how what is written is scored, ``score``, and how it is asked for."""

    writes_from_source = True
    columns: tuple[str, ...] = ("source", "text")
    """Of a row that is to be answered: the first one there is the source."""
    scored = SCORED
    """How many held-out rows are answered and scored at the end of a run."""

    def __init__(self, options: Any):
        self.options: Any = options
        self.limit = UNLIMITED

    def score(self, written: list[str], references: list[list[str]]) -> Metrics:
        """Metrics of texts against their references. Empty where what measures them is not installed."""
        raise NotImplementedError

    def source(self, example: Example) -> str:
        return (example.text or "").strip()

    def references(self, example: Example) -> list[str]:
        return example.targets or []

    def learned(self, example: Example) -> list[str]:
        """Those of the references that are learned, a row for each: together they weigh as one."""
        return self.references(example)[:1]

    def taught(self, example: Example, text: str) -> Example:
        return replace(example, targets=[text])

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        self.limit = limit  # prompts are cut as rows are

        def encode(example: Example) -> list[Features]:
            cut = limit if overlong == "truncate" else UNLIMITED
            targets: list[str | None] = [*self.learned(example)] or [None]
            rows = [self.row(backbone, example, target, cut) for target in targets]
            return [row | {"weight": example.weight / len(rows)} for row in rows]

        return encode

    def row(self, backbone: Backbone, example: Example, target: str | None, limit: int) -> Features:
        source = self.options.prefix + self.source(example)
        if backbone.encoder_decoder:
            return source_and_target(backbone.tokenizer, source, target, limit)
        return one_text(backbone.tokenizer, source, self.options.separator, target, limit)

    def parse(self, given: Any) -> Example:
        if not isinstance(given, dict):
            return Example(INLINE, text=str(given))
        return Example(INLINE, text=str(next((given[name] for name in self.columns if name in given), "")))

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """Generated text. Options: those of the recipe's section that the search has, temperature, seed."""
        settings = {**self.options.search(), **options}
        settings["min_new_tokens"] = min(settings["min_new_tokens"], settings["max_new_tokens"])
        limit = self.limit
        if not ask.backbone.encoder_decoder:  # what is written needs room in the same row: at most half of it
            limit -= min(settings["max_new_tokens"], limit // 2)
        rows = [self.row(ask.backbone, example, None, limit) for example in examples]
        answers = self.write(ask, [row if "pictures" in row else row["input_ids"] for row in rows], **settings)
        return [self.written(row, answer) for row, answer in zip(rows, answers, strict=True)]

    def written(self, row: Features, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer as it is told, of the row that asked for it."""
        return answer

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        """Metrics of what is written for the first rows, and which share of it is empty."""
        examples = [example for example in examples[: self.scored] if self.references(example)]
        if not examples or not self.scores:
            return {}
        written = [answer["text"] for answer in self.answer(ask, examples)]
        empty = {"value": sum(not text for text in written) / len(written), "n": len(written)}
        return {**self.score(written, [self.references(example) for example in examples]), "empty_answers": empty}

    @property
    def scores(self) -> bool:
        """Whether there is what scores an answer."""
        return True

    def shown(self, example: Example) -> tuple[str, str]:
        text = self.source(example)
        return text[:SHOWN] + ("…" if len(text) > SHOWN else ""), next(iter(self.references(example)), "")


def scored_part(code: str, evaluation: Sequence[Example], name: str, extra: str, scored: int = SCORED) -> list[Finding]:
    """How much of the evaluation a metric of written answers will cover; ``extra`` where it is not installed."""
    if not evaluation or (not extra and len(evaluation) <= scored):
        return []
    what, mend = f"{name} is taken of answers to the first {scored} of {len(evaluation)} rows", ""
    if extra:
        what, mend = f"answers are not scored by {name}", f'pip install "luthier[{extra}]"'
    return [Finding(code, "data.eval", what, mend, severity="note")]
