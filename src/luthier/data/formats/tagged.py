"""Rows whose words have tags: given word by word, or as a text with marked parts of it.

Both become a text with a span for every word of it, whose label is the word's tag. Of marked parts it is in BIO:

    {"tokens": ["Ada", "wrote", "it"], "tags": ["B-PER", "O", "O"]}
    {"text": "Ada wrote it", "spans": [{"start": 0, "end": 3, "label": "PER"}]}
    both: text "Ada wrote it", spans [(0, 3, "B-PER"), (4, 9, "O"), (10, 12, "O")]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.data.files.reading import kind
from luthier.data.formats.fields import Fields
from luthier.data.text.tags import spelled
from luthier.data.text.words import Place, joined, words_of
from luthier.types import INLINE, Example, Span

LABEL = ("label", "type", "tag")


def tokens_tags(fields: Fields) -> Example:
    """Tags are names or numbers (as text: ``tag.names`` tells what they mean). A table's words are parted by spaces."""
    tokens, tags = (_listed(fields, name) for name in ("tokens", "tags"))
    column = fields.column("tokens")
    for at, token in enumerate(tokens):
        if not isinstance(token, str):
            fields.report("data.type", f"{column}[{at}]", f"a word is text, this is {kind(token)}")
        elif not token.strip():
            fields.report("data.empty-target", f"{column}[{at}]", "the word is empty")
    column = fields.column("tags")
    for at, tag in enumerate(tags):
        if isinstance(tag, bool) or not isinstance(tag, str | int):
            fields.report("data.type", f"{column}[{at}]", f"a tag is a name or a number, this is {kind(tag)}")
        elif tag == "":
            fields.report("data.empty-target", f"{column}[{at}]", "the tag is empty")
    if len(tokens) != len(tags) and not fields.findings:
        what = f"{len(tags)} tags for {len(tokens)} words"
        fields.report("data.tag-count", column, what, "give one tag for each word")
    if fields.findings:
        return Example(fields.source)
    text, places = joined(tokens)
    return Example(
        fields.source, text=text, spans=[(*place, str(tag)) for place, tag in zip(places, tags, strict=True)]
    )


def _listed(fields: Fields, name: str) -> list[Any]:
    value, column = fields.get(name), fields.column(name)
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list):
        fields.report("data.type", column, f"must be a list, this is {kind(value)}")
        return []
    if not value:
        fields.report("data.empty-target", column, "is empty: there is nothing to learn")
    return value


def text_spans(fields: Fields) -> Example:
    """A span is ``{"start", "end", "label"}``, perhaps with its ``text``, or ``[start, end, label]``, in characters."""
    text, given, column = fields.text("text", target=True), fields.get("spans"), fields.column("spans")
    if not isinstance(given, list):
        fields.report("data.type", column, f"must be a list of spans, this is {kind(given)}")
        return Example(fields.source)
    words = words_of(text)
    marked: list[tuple[int, int, str]] = []  # first word, the word after the last, label
    taken: list[tuple[int, Span]] = []
    for at, one in enumerate(given):
        span = _span(fields, one, f"{column}[{at}]", text)
        if span is None:
            continue
        covered = _covered(fields, span, words, text, f"{column}[{at}]")
        for other, (start, end, _) in taken:
            if start < span[1] and span[0] < end:
                what = f"overlaps with {column}[{other}], {text[start:end]!r}"
                fields.report("data.span-overlap", f"{column}[{at}]", what, "a word has one tag: keep one of them")
        taken.append((at, span))
        if covered:
            marked.append((*covered, span[2]))
    if fields.findings:
        return Example(fields.source)
    tags = spelled(marked, len(words))
    return Example(fields.source, text=text, spans=[(*word, tag) for word, tag in zip(words, tags, strict=True)])


def _span(fields: Fields, one: Any, at: str, text: str) -> Span | None:
    """A span that lies in the text; else None, and why is reported."""
    said = None
    if isinstance(one, dict):
        said = one.get("text")
        one = [one.get("start"), one.get("end"), next((one[name] for name in LABEL if name in one), None)]
    places = isinstance(one, list) and len(one) == 3 and all(type(place) is int for place in one[:2])
    if not places or not isinstance(one[2], str) or not one[2].strip():
        fields.report("data.type", at, "a span is {start, end, label}: two whole numbers and a name")
        return None
    start, end, label = one
    if not 0 <= start < end <= len(text):
        what = f"[{start}, {end}) is not a part of the text, which has {len(text)} characters"
        fields.report("data.span-outside", at, what, "count characters, not bytes; the end is the one after the last")
        return None
    if isinstance(said, str) and said != text[start:end]:
        what = f"[{start}, {end}) is {text[start:end]!r}, and the row says {said!r}"
        fields.report("data.span-text", at, what, "count characters of this very text, not bytes")
        return None
    return start, end, label


def _covered(fields: Fields, span: Span, words: Sequence[Place], text: str, at: str) -> tuple[int, int] | None:
    """The words [first, after) that a span covers; None where it cuts one, or covers none, which is reported."""
    start, end, _ = span
    touched = [number for number, (opens, closes) in enumerate(words) if opens < end and start < closes]
    if not touched:
        fields.report("data.span-outside", at, f"{text[start:end]!r} holds no word", "mark a word, or leave it out")
        return None
    first, last = words[touched[0]], words[touched[-1]]
    for word, cut in ((first, first[0] < start), (last, end < last[1])):
        if cut:
            what = f"{text[start:end]!r} cuts the word {text[word[0] : word[1]]!r}"
            fields.report("data.span-cut", at, what, "mark whole words")
            return None
    return touched[0], touched[-1] + 1


def places_of(example: Example) -> list[Place]:
    """The words of an example: those that it came with, or those of its text."""
    return words_of(example.text or "") if example.spans is None else [(start, end) for start, end, _ in example.spans]


def tags_of(example: Example) -> list[str]:
    """Their tags; none where it has none, or is only to be tagged."""
    tags = [tag for _, _, tag in example.spans or ()]
    return tags if all(tags) else []


def untagged(tokens: Sequence[str]) -> Example:
    """Words that are to be tagged."""
    text, places = joined(tokens)
    return Example(INLINE, text=text, spans=[(*place, "") for place in places])
