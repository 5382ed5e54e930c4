"""Learn from human feedback, directly: of two answers the better one, or one answer with a thumb up or down.

What is tuned is a model that writes: it answers as after `chat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from luthier.data.text.turns import with_system
from luthier.evaluate import preference
from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.models.vision.illustrated import Illustrated
from luthier.options import Options as Section
from luthier.tasks import chat
from luthier.tasks.answers import (
    encode_answer,
    pair_rows,
    parsed_row,
    shown_prompt,
    shown_turns,
    told_rows,
)
from luthier.tasks.common import Ask, Encoder
from luthier.types import Example, Features, Finding

DEFAULTS = {"batch_size": 16, "overlong": "error", "epochs": 1.0, "learning_rate_factor": 0.1}


class Options(Section):
    system: str | None = Field(None, min_length=1, description="a system turn for prompts that have none")


class Task(chat.Task):
    """As `chat` where it writes; its rows are prompts with judged answers."""

    formats: tuple[str, ...] = ("preference", "judged-pair", "rated-answers", "thumbs")
    splits = False
    metric = "loss"
    metrics: dict[str, bool] = {"loss": False, **preference.METRICS}

    def __init__(self, options: Options):
        super().__init__(chat.Options.model_validate({"system": options.system}))
        self.unpaired = False

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        self.unpaired = any(not (example.chosen and example.rejected) for example in train)
        return [*super().study(train, evaluation), *told_rows(train, evaluation)]

    def objective(self) -> str:
        return "kto" if self.unpaired else "dpo"

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        """A row with two answers is both, prompt and answer end to end; one with a thumb is that one. Raises Refused
        where the model reads one prompt and writes one answer."""
        if isinstance(backbone, Illustrated):
            backbone.check_conversations()
        cut = limit if overlong == "truncate" else None

        def encode(example: Example) -> list[Features]:
            example = replace(example, messages=with_system(example.messages or [], self.system))
            return pair_rows(encode_answer, backbone, example, cut)

        return encode

    def parse(self, given: Any) -> Example:
        """As `chat`; of a row with judged answers its prompt."""
        if isinstance(given, dict) and (row := parsed_row(given, self.formats)) is not None:
            return Example(row.source, messages=row.messages, tools=row.tools, images=row.images)
        return super().parse(given)

    def taught(self, example: Example, text: str) -> Example | None:
        """What is learned was judged, and is no teacher's to write."""
        return None

    def plain(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, float]:
        return preference.plain(outputs, preference.METRICS)

    def with_intervals(self, outputs: list[Any], rows: Sequence[Features]) -> Metrics:
        return preference.with_intervals(outputs, preference.METRICS)

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        return {}

    def shown(self, example: Example) -> tuple[str, str]:
        return shown_prompt(example.messages or []), shown_turns(example.chosen)
