"""What the tasks that write about a picture share: the row, pictures and question before the target, and its answer.

A mark (``<image>`` in a composed model) says in a question where a picture stands; without one all stand before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from luthier.data.text.document import one_text
from luthier.models.backbone import Backbone
from luthier.models.vision.illustrated import Illustrated
from luthier.tasks.common import Ask
from luthier.tasks.pictures import in_places, picture_example, read_among_words, told_at, told_pictures
from luthier.tasks.source import FromSource, WritingOptions
from luthier.types import Example, Features, Finding, Refused


class PictureOptions(WritingOptions):
    scored: int = Field(500, gt=0, description="held-out rows that are answered and scored at the end of a run")
    prompt: str = Field("", description="what is asked where a row has no text")
    closing: str = Field("", description="after each answer, learned with it and not told: Donut's `</s_answer>`")


class FromPicture(FromSource):
    def __init__(self, options: Any):
        super().__init__(options)
        self.scored = options.scored

    def source(self, example: Example) -> str:
        return (example.text or "").strip() or self.options.prompt

    def row(self, backbone: Backbone, example: Example, target: str | None, limit: int) -> Features:
        unasked = isinstance(backbone, Illustrated) and backbone.begins_unasked
        asked = (example.text or "").strip() if unasked else self.source(example)
        if target is not None:
            target = target.strip() + self.options.closing
        return shown_source(backbone, example, self.options.prefix + asked, self.options.separator, target, limit)

    def written(self, row: Features, answer: dict[str, Any]) -> dict[str, Any]:
        return answer | {"text": answer["text"].removesuffix(self.options.closing).rstrip()}

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """As for any source; rows are short, and many are written at a time."""
        return super().answer(ask, examples, **{"batch_size": 32, **options})

    def parse(self, given: Any) -> Example:
        return replace(picture_example(given), targets=None)

    def shown(self, example: Example) -> tuple[str, str]:
        asked, target = super().shown(example)
        return " ".join([*told_pictures(example), asked]), target


def shown_source(
    backbone: Backbone, example: Example, source: str, separator: str, target: str | None, limit: int
) -> Features:
    """Pictures or sounds, where no mark says otherwise before the ``source``, and what is written of them. Raises
    Refused where the model takes none, one can't be used, or there is no room for text beside them."""
    reader, shown = read_among_words(backbone, example)
    if reader.mark not in source:
        source = reader.mark * len(shown) + source
    room = limit - reader.room_taken(shown)
    if room < len(shown) + 2:
        what = f"{len(shown)} {reader.shows} of {limit - room + len(shown)} tokens leave no room for text in {limit}"
        mend = "raise `max_length`, or make fewer tokens of each (`tokens`, `pool`)"
        place = f"{example.source}:{'image' if reader.shows == 'pictures' else 'audio'}"
        raise Refused(Finding("data.picture-room", place, what, mend))
    if reader.lays_out_rows:
        with told_at(f"{example.source}:text"):
            return reader.row_of(source, separator, target, shown, limit)
    made = one_text(reader.tokenizer, source, separator, target, room, reader.mark_id)
    return in_places(reader, made, shown, f"{example.source}:text")
