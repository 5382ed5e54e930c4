"""Write a summary of a document: by an encoder-decoder, or by a decoder after a separator.

Of several summaries of one document the first is learned, so that a document counts once; all stay references.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from luthier.data.document import one_text, source_and_target
from luthier.evaluate import rouge
from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.options import Options as Section
from luthier.tasks.common import Ask, Encoder
from luthier.tasks.language import LanguageTask
from luthier.types import INLINE, Example, Features, Finding

DEFAULTS = {"batch_size": 16, "overlong": "truncate", "epochs": 3.0}
SHOWN = 600  # characters of a document
UNLIMITED = 2**31
SCORED = 100  # rows whose summaries are written and scored by ROUGE: writing takes far longer than reading


class Options(Section):
    prefix: str = Field("", description="before each document; the first T5 models know `summarize: `")
    # Radford et al. 2019 (Language Models are Unsupervised Multitask Learners), section 3.6.
    separator: str = Field("\n\nTL;DR:", description="between document and summary, where a decoder writes it")
    num_beams: int = Field(1, gt=0, description="of the search for an answer; 1 is greedy")


class Task(LanguageTask):
    formats = ("document-summary",)
    writes_from_source = True

    def __init__(self, options: Options):
        self.prefix, self.separator, self.num_beams = options.prefix, options.separator, options.num_beams
        self.limit = UNLIMITED

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        """How much of the evaluation ROUGE will cover."""
        if not evaluation or (rouge.available() and len(evaluation) <= SCORED):
            return []
        what, mend = f"ROUGE is taken of summaries of the first {SCORED} of {len(evaluation)} rows", ""
        if not rouge.available():
            what, mend = "summaries are not scored by ROUGE", 'pip install "luthier[summarize]"'
        return [Finding("task.rouge", "data.eval", what, mend, severity="note")]

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        self.limit = limit  # prompts are cut as rows are

        def encode(example: Example) -> list[Features]:
            target = example.targets[0] if example.targets else None
            row = self._row(backbone, example, target, limit if overlong == "truncate" else UNLIMITED)
            return [row | {"weight": example.weight}]

        return encode

    def _row(self, backbone: Backbone, example: Example, target: str | None, limit: int) -> Features:
        document = self.prefix + (example.text or "").strip()
        if backbone.encoder_decoder:
            return source_and_target(backbone.tokenizer, document, target, limit)
        return one_text(backbone.tokenizer, document, self.separator, target, limit)

    def parse(self, given: Any) -> Example:
        if not isinstance(given, dict):
            return Example(INLINE, text=str(given))
        names = ("document", "article", "text")
        return Example(INLINE, text=str(next((given[name] for name in names if name in given), "")))

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """Generated text. Options: max_new_tokens (128), num_beams (the recipe's), temperature, seed."""
        settings = {"max_new_tokens": 128, "num_beams": self.num_beams, **options}
        limit = self.limit
        if not ask.backbone.encoder_decoder:  # what is written needs room in the same row: at most half of it
            limit -= min(settings["max_new_tokens"], limit // 2)
        prompts = [self._row(ask.backbone, example, None, limit)["input_ids"] for example in examples]
        return self.write(ask, prompts, **settings)

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        """ROUGE of the summaries of the first ``SCORED`` rows."""
        examples = [example for example in examples[:SCORED] if example.targets]
        if not examples or not rouge.available():
            return {}
        answers = self.answer(ask, examples)
        return rouge.with_intervals(
            [answer["text"] for answer in answers], [example.targets or [] for example in examples]
        )

    def shown(self, example: Example) -> tuple[str, str]:
        text = example.text or ""
        return text[:SHOWN] + ("…" if len(text) > SHOWN else ""), (example.targets or [""])[0]
