"""What a chat template and a row's own words do to each other."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from luthier.data.text.parts import EACH
from luthier.data.text.render import code_of, render
from luthier.types import Finding, Refused

if TYPE_CHECKING:
    from luthier.runs.prepared import Prepared

NOW = re.compile(r"strftime_now\(\s*['\"](.*?)['\"]\s*\)")
DATED = re.compile(r"\b(\w*date\w*) is (?:not )?defined|not (\w*date\w*) is defined")


def markers_in_words(prepared: Prepared) -> list[Finding]:
    """A special token that is spelled in what a person said becomes that token, such as the end of a turn."""
    added = prepared.backbone.tokenizer.added_tokens_decoder.values()
    special = [token.content for token in added if token.special and len(token.content) > 1]
    examples = [example for example in prepared.train.examples if example.messages]
    if not special or not examples:
        return []
    spelled = re.compile("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)))
    found = []
    for example in examples:
        for index, turn in enumerate(example.messages or []):
            said = str(turn.get("content") or "")
            if match := spelled.search(EACH.sub("", said) if example.images or example.sounds else said):
                found.append((f"{example.source}:messages[{index}]", match.group()))
                break
    if not found:
        return []
    where, token = found[0]
    what = f"{len(found)} of {len(examples)} rows spell a token of the tokenizer's in their own words (here {token!r})"
    why = "it is read as that token, not as text: in an answer the model learns to write it, and would stop there"
    return [Finding("data.marker", where, what, "change these words, or leave the rows out", why, "warning")]


def dated(prepared: Prepared) -> list[Finding]:
    """A template that writes today's date makes other rows tomorrow."""
    tokenizer = prepared.backbone.tokenizer
    example = next((example for example in prepared.train.examples if example.messages), None)
    code = code_of(tokenizer)
    if example is None or not NOW.search(code):
        return []
    try:
        text = render(tokenizer, (example.messages or [])[:1], tools=example.tools, add_generation_prompt=True).text
    except Refused:
        return []
    dates = [datetime.now().strftime(form) for form in NOW.findall(code)]
    written = next((date for date in dates if date in text), None)
    if written is None:
        return []
    names = [name for pair in DATED.findall(code) for name in pair if name]
    mend = "set another `model.template`"
    if names:
        mend = f"hold it: `model.template_options: {{{names[0]}: {written}}}`"
    what = f"the chat template writes today's date ({written}) into every row"
    why = "tomorrow the same command makes other rows, and begins another run"
    return [Finding("template.date", "model.template", what, mend, why, "warning")]
