"""A text that goes on: what is given, and what is to be written right after it.

The two are one text to a tokenizer, and a token may reach over the border between them. Such a token is the model's to
write: the prompt ends before it, in training and when it is asked alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from luthier.data.text.template import Encoded, encode_spans

# What mostly follows: so that the border is cut as it is in training.
LIKELY = "    return x"


def goes_on(tokenizer: Any, given: str, written: str) -> Encoded:
    """Both as one row; what is written, and the end of text after it, is supervised."""
    encoded = encode_spans(tokenizer, f"{given}{written}{tokenizer.eos_token or ''}", [])
    at, count = _border(encoded, given), len(encoded.input_ids)
    return replace(
        encoded, supervised=[False] * at + [True] * (count - at), turn_ends=[count - 1 if at < count else -1]
    )


def begun(tokenizer: Any, given: str, likely: str = LIKELY) -> tuple[list[int], str]:
    """The ids from which a model goes on, and what of the text they do not hold: what it writes begins with that."""
    encoded = encode_spans(tokenizer, given + likely, [])
    count = _border(encoded, given)
    held = encoded.spans[count][0] if count < len(encoded.spans) else len(given)
    return encoded.input_ids[:count], given[held:]


def _border(encoded: Encoded, given: str) -> int:
    """The first token that is not wholly of what is given."""
    return next((at for at, (_, end) in enumerate(encoded.spans) if end > len(given)), len(encoded.input_ids))
