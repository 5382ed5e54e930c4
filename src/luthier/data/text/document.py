"""A document and what is to be written about it, as token ids.

A decoder reads them as one text, document, separator, target and end-of-text token, of which the last two are
supervised; an encoder-decoder reads the document and writes the target. Where a row is too long the document loses its
end, and the target nothing.

    a decoder            The cat sat on the mat all day.\\n\\nTL;DR: A cat sat.</s>
    supervised                                                  ^^^^^^^^^^^^^^^
"""

from __future__ import annotations

from typing import Any

from luthier.data.lengths import cut_text
from luthier.data.text.template import encode_spans
from luthier.types import Features


def one_text(
    tokenizer: Any, document: str, separator: str, target: str | None, limit: int, kept: int | None = None
) -> Features:
    """``input_ids``, ``supervised``, ``turn_ends`` and ``full_length`` of a row of at most ``limit`` tokens.

    Without a target it is the prompt from which one is written. Where separator and target alone are over the limit,
    nothing is supervised. The id ``kept`` is never cut off: a picture's place.
    """
    prompt = document + separator
    # The space is the target's: tokenizers take it with the word that follows.
    text = prompt if target is None else f"{prompt} {target.strip()}{tokenizer.eos_token or ''}"
    encoded = encode_spans(tokenizer, text, [] if target is None else [[(len(prompt), len(text))]])
    ids, supervised, ends = encoded.input_ids, encoded.supervised, encoded.turn_ends
    excess = max(0, len(ids) - limit)
    places = enumerate(encoded.spans)
    of_document = [at for at, (start, end) in places if start >= 0 and end <= len(document) and ids[at] != kept]
    if excess > len(of_document):
        left = [token for at, token in enumerate(ids) if at < limit or token == kept]
        return {"input_ids": left, "supervised": [False] * len(left), "turn_ends": [], "full_length": len(ids)}
    if excess:
        cut = {*of_document[-excess:]}
        ids = [token for at, token in enumerate(ids) if at not in cut]
        supervised = [one for at, one in enumerate(supervised) if at not in cut]
        ends = [at - excess for at in ends]
    return {"input_ids": ids, "supervised": supervised, "turn_ends": ends, "full_length": len(encoded.input_ids)}


def source_and_target(tokenizer: Any, document: str, target: str | None, limit: int) -> Features:
    """``input_ids`` of the source and ``target_ids``, each of at most ``limit`` tokens; the target ends in end of text.

    A target over the limit is left out whole.
    """
    source, full = cut_text(tokenizer, document, limit)
    written: list[int] = [] if target is None else tokenizer(text_target=target.strip(), verbose=False)["input_ids"]
    if written and tokenizer.eos_token_id not in written[-2:]:  # after it may stand the code of a language
        written = [*written, tokenizer.eos_token_id]
    full, written = max(full, len(written)), written if len(written) <= limit else []
    ends = [len(written) - 1 - written[::-1].index(tokenizer.eos_token_id)] if written else []
    return {"input_ids": source, "target_ids": written, "turn_ends": ends, "full_length": full}
