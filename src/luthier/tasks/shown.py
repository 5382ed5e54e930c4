"""What the tasks that write about a picture share: the row, pictures and question before the target, and its answer.

A mark (``<image>`` in a composed model) says in a question where a picture stands; without one all stand before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from luthier.data.document import one_text
from luthier.models.backbone import Backbone
from luthier.tasks.common import Ask
from luthier.tasks.pictures import in_places, picture_example, read_among_words, told_pictures
from luthier.tasks.source import FromSource, WritingOptions
from luthier.types import Example, Features, Finding, Refused


class PictureOptions(WritingOptions):
    scored: int = Field(500, gt=0, description="held-out rows that are answered and scored at the end of a run")
    prompt: str = Field("", description="what is asked where a row has no text")


class FromPicture(FromSource):
    def __init__(self, options: Any):
        super().__init__(options)
        self.scored = options.scored

    def source(self, example: Example) -> str:
        return (example.text or "").strip() or self.options.prompt

    def row(self, backbone: Backbone, example: Example, target: str | None, limit: int) -> Features:
        reader, images = read_among_words(backbone, example)
        source = self.options.prefix + self.source(example)
        if reader.mark not in source:
            source = reader.mark * len(images) + source
        room = limit - reader.room_taken(images)
        if room < len(images) + 2:
            what = f"{len(images)} pictures of {limit - room + len(images)} tokens leave no room for text in {limit}"
            mend = "raise `max_length`, or give fewer `tokens`"
            raise Refused(Finding("data.picture-room", f"{example.source}:image", what, mend))
        made = one_text(reader.tokenizer, source, self.options.separator, target, room, reader.mark_id)
        return in_places(reader, made, images, f"{example.source}:text")

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """As for any source; rows are short, and many are written at a time."""
        return super().answer(ask, examples, **{"batch_size": 32, **options})

    def parse(self, given: Any) -> Example:
        return replace(picture_example(given), targets=None)

    def shown(self, example: Example) -> tuple[str, str]:
        asked, target = super().shown(example)
        return " ".join([*told_pictures(example), asked]), target
