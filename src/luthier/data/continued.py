"""A text that goes on: what is given, and what is to be written right after it.

The two are one text to a tokenizer, and a token may reach over the border between them. Such a token is the model's to
write: the prompt ends before it, in training and when it is asked alike.
"""

from __future__ import annotations

from typing import Any

from luthier.data.template import Encoded, encode_spans

# What mostly follows: so that the border is cut as it is in training.
LIKELY = "    return x"


def goes_on(tokenizer: Any, given: str, written: str) -> Encoded:
    """Both as one row; what is written, and the end of text after it, is supervised."""
    text = f"{given}{written}{tokenizer.eos_token or ''}"
    encoded = encode_spans(tokenizer, text, [])
    start = next((first for first, end in encoded.spans if end > len(given)), len(text))
    return encode_spans(tokenizer, text, [[(start, len(text))]])


def begun(tokenizer: Any, given: str, likely: str = LIKELY) -> tuple[list[int], str]:
    """The ids from which a model goes on, and what of the text they do not hold: what it writes begins with that."""
    encoded = encode_spans(tokenizer, given + likely, [])
    count = next((at for at, (_, end) in enumerate(encoded.spans) if end > len(given)), len(encoded.input_ids))
    held = encoded.spans[count][0] if count < len(encoded.spans) else len(given)
    return encoded.input_ids[:count], given[held:]
