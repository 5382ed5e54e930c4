"""Go on with a text: plain language modelling, a document cut into blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from luthier.data.text.template import encode_text
from luthier.models.backbone import Backbone
from luthier.options import Options as Section
from luthier.tasks.common import Ask, Encoder
from luthier.tasks.language import LanguageTask
from luthier.types import INLINE, Example, Features, Source

DEFAULTS = {"batch_size": 16, "overlong": "truncate", "epochs": 3.0, "max_length": 512}
SHOWN = 200
# Characters of a piece: long enough for context, short enough that a tenth of a book can be held out.
PIECE = 8192


class Options(Section):
    pass


class Task(LanguageTask):
    formats = ("plain-text",)

    def __init__(self, options: Options):
        pass

    def pieces(self, examples: Sequence[Example]) -> list[Example]:
        """Long documents cut at line ends, each piece with the line that it begins on."""
        return [piece for example in examples for piece in _pieces(example)]

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        """Blocks of at most ``limit`` tokens; each begins with the last token of the one before, so every token of the
        text is predicted once."""

        def encode(example: Example) -> list[Features]:
            encoded = encode_text(backbone.tokenizer, example.text or "", add_eos=example.ends)
            blocks = []
            for start in range(0, max(1, len(encoded.input_ids) - 1), limit - 1):
                ids, mask = encoded.input_ids[start : start + limit], encoded.supervised[start : start + limit]
                row = {"input_ids": ids, "supervised": mask, "weight": example.weight, "full_length": len(ids)}
                blocks.append(row)
            return blocks

        return encode

    def parse(self, given: Any) -> Example:
        return Example(INLINE, text=given.get("text", "") if isinstance(given, dict) else str(given))

    def terminators(self, backbone: Backbone) -> list[int]:
        return []  # a block of a longer text does not end in one

    def prompt(self, ask: Ask, example: Example) -> list[int]:
        return encode_text(ask.backbone.tokenizer, example.text or "", add_eos=False).input_ids

    def shown(self, example: Example) -> tuple[str, str]:
        text = example.text or ""
        return text[:SHOWN], text[SHOWN : 2 * SHOWN]


def _pieces(example: Example) -> Iterator[Example]:
    text, start, line = example.text or "", 0, example.source.line
    while len(text) - start > PIECE:
        end = text.rfind("\n", start, start + PIECE) + 1 or start + PIECE
        yield replace(example, text=text[start:end], source=Source(example.source.file, line), ends=False)
        line += text.count("\n", start, end)
        start = end
    yield replace(example, text=text[start:], source=Source(example.source.file, line))
