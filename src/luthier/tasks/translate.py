"""Write a text in another language, or any target from its source, by an encoder-decoder or a decoder.

Where the tokenizer has codes of languages (mBART, NLLB, M2M-100), they stand in source and target as it puts them, and
an answer begins with the target's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from luthier.evaluate import translation
from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.models.languages import speak
from luthier.tasks.common import Encoder
from luthier.tasks.source import FromSource, WritingOptions, scored_part
from luthier.types import Example, Finding

DEFAULTS = {"batch_size": 16, "overlong": "truncate", "epochs": 3.0}


class Options(WritingOptions):
    separator: str = Field("\n\nTranslation:", description="between source and target, where a decoder writes it")
    source: str | None = Field(None, description="the language that is translated, as the rows call it")
    target: str | None = Field(None, description="the language to write")
    codes: dict[str, str] = Field(
        default_factory=dict, description="language: the tokenizer's code of it, where that is another word"
    )


class Task(FromSource):
    formats = ("translation", "source-target")
    columns = ("source", "src", "text")

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        note = scored_part("task.translation", evaluation, "BLEU", "" if translation.available() else "translate")
        return self._languages(train) or [*self.unknown([*train, *evaluation]), *note]

    def _languages(self, examples: Sequence[Example]) -> list[Finding]:
        """Rows by language want to know which is read and which is written."""
        there = {language: None for example in examples for language in example.translations or ()}
        if not there or (self.options.source and self.options.target and self.options.source != self.options.target):
            return []
        first, second, *_ = there
        what = f"the rows hold {', '.join(there)}: which is the source, and which the target?"
        mend = f"give `translate.source: {first}` and `translate.target: {second}`, or the other way round"
        return [Finding("task.language", "translate", what, mend)]

    def unknown(self, examples: Sequence[Example]) -> list[Finding]:
        """Rows that lack a language."""
        lacking = [
            (example, language)
            for example in examples
            for language in (self.options.source, self.options.target)
            if example.translations is not None and not example.translations.get(language)
        ]
        return [
            Finding("data.missing-field", f"{example.source}:translation", f"has no {language!r}", "add it")
            for example, language in lacking
        ]

    def source(self, example: Example) -> str:
        of_language = (example.translations or {}).get(self.options.source)
        return (of_language[0] if of_language else example.text or "").strip()

    def references(self, example: Example) -> list[str]:
        return (example.translations or {}).get(self.options.target) or example.targets or []

    def taught(self, example: Example, text: str) -> Example:
        if not example.translations:
            return super().taught(example, text)
        return replace(example, translations={**example.translations, self.options.target: [text]})

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        codes = [self.options.codes.get(name, name) for name in (self.options.source, self.options.target)]
        speak(backbone, *codes)
        return super().encoder(backbone, limit, overlong)

    def parse(self, given: Any) -> Example:
        if isinstance(given, dict) and isinstance(given.get("translation"), dict):
            given = {"text": given["translation"].get(self.options.source, "")}
        return super().parse(given)

    def score(self, written: list[str], references: list[list[str]]) -> Metrics:
        """BLEU and chrF, and the share that is one of the references, word for word."""
        return translation.with_intervals(written, references)
