"""Conversations and texts as token ids, and which of them are supervised.

The text is rendered whole and tokenized once; a token is supervised where its characters lie in a supervised span. A
token that reaches from the prompt into the answer is not: at generation the prompt ends before it.

    text        <|im_start|>user\\nhi<|im_end|>\\n<|im_start|>assistant\\nhello there<|im_end|>\\n
    supervised                                                         ^^^^^^^^^^^^^^^^^^^^^

Padding is never looked at here: which id pads makes no difference to a mask.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from luthier.data.text.faithful import left_out
from luthier.data.text.render import Span, load_template, render
from luthier.data.text.spans import Turn, assistant_turns, terminators
from luthier.types import Finding, Message, Refused

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Encoded", "decode_marked", "encode_chat", "encode_prompt", "encode_spans", "encode_text", "load_template",
    "terminator_supervised", "turn_terminators",
]  # fmt: skip


@dataclass
class Encoded:
    """One row: its ids, whether each is supervised, the text it came from, and where supervised turns end.

    ``turn_ends`` has, for each assistant turn that is to be supervised, the index of its last supervised token, or -1
    where none is.
    """

    input_ids: list[int]
    supervised: list[bool]
    text: str
    turn_ends: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    """The characters of each token."""


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Sequence[dict[str, Any]] | None = None,
    train_on: Literal["all", "last"] | Sequence[int] = "all", add_generation_prompt: bool = False,
    where: str = "messages",
) -> Encoded:  # fmt: skip
    """Encode a conversation; supervise the assistant's turns (all, only the last, or those with these indices in
    ``messages``) and their terminators.

    Where the template ends the last turn with no terminator, the end-of-text token is appended and supervised.
    ``where`` (``file:line:field``) names the row in findings. Raises Refused with ``template.none``, ``template.role``,
    ``template.render``, ``template.prefix``, ``template.drops`` or ``template.slow-tokenizer``.
    """
    rendered = render(tokenizer, messages, tools=tools, add_generation_prompt=add_generation_prompt, where=where)
    indices = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if train_on != "all":
        indices = indices[-1:] if isinstance(train_on, str) else list(train_on)
    turns = assistant_turns(tokenizer, rendered, messages, indices, tools=tools, where=where)
    text = rendered.text
    taught = {i: "".join(text[a:b] for a, b in turn.spans) for i, turn in zip(indices, turns, strict=True)}
    if findings := left_out(text, messages, taught, tools, where):
        raise Refused(*findings)
    if indices[-1:] == [len(messages) - 1] and not add_generation_prompt:
        text, turns[-1] = _end_of_text(text, turns[-1], tokenizer)
    return encode_spans(tokenizer, text, [turn.spans for turn in turns])


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None,
    *, where: str = "messages",
) -> list[int]:  # fmt: skip
    """The ids that the model continues from when it answers ``messages``: rendered and tokenized as for training."""
    rendered = render(tokenizer, messages, tools=tools, add_generation_prompt=True, where=where)
    return _tokenize(tokenizer, rendered.text)[0]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, *, add_eos: bool = True) -> Encoded:
    """Encode plain text; all of it is supervised but the begin-of-text token. The end-of-text token comes once."""
    if add_eos and tokenizer.eos_token and not text.endswith(str(tokenizer.eos_token)):
        text += str(tokenizer.eos_token)
    return encode_spans(tokenizer, text, [[(0, len(text))]])


def turn_terminators(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that end an assistant's turn: the tokenizer's end of text, and the template's end of turn.

    The model's generation configuration may name more.
    """
    return set(terminators(tokenizer).ids)


def terminator_supervised(encoded: Encoded, tokenizer: PreTrainedTokenizerBase, more: Iterable[int] = ()) -> bool:
    """Whether the last supervised token of each supervised turn is a terminator (or one of ``more``)."""
    ends = turn_terminators(tokenizer) | set(more)
    return all(0 <= at < len(encoded.input_ids) and encoded.input_ids[at] in ends for at in encoded.turn_ends)


def decode_marked(tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> list[tuple[str, bool]]:
    """The row as the model sees it: runs of decoded text, each with whether it is supervised."""
    runs: list[tuple[str, bool]] = []
    shown, end = "", 0
    for supervised, run in groupby(encoded.supervised):
        end += len(list(run))
        # Decoders drop the space that begins a text, so each run is what it adds to the text before it.
        whole = str(tokenizer.decode(encoded.input_ids[:end], clean_up_tokenization_spaces=False))
        runs.append((whole[len(shown) :], supervised))
        shown = whole
    return runs


def _end_of_text(text: str, turn: Turn, tokenizer: PreTrainedTokenizerBase) -> tuple[str, Turn]:
    """Append the end-of-text token to an unterminated last turn, and supervise all that leads up to it."""
    if turn.terminated or not turn.spans or not tokenizer.eos_token:
        return text, turn
    text += str(tokenizer.eos_token)
    *before, (start, _) = turn.spans
    return text, Turn([*before, (start, len(text))], True)


def encode_spans(tokenizer: PreTrainedTokenizerBase, text: str, turns: list[list[Span]]) -> Encoded:
    """Encode a text of which some characters are supervised: the spans of each turn, none where there is no target."""
    ids, tokens = _tokenize(tokenizer, text)
    spans = sorted(span for turn in turns for span in turn)
    starts = [start for start, _ in spans]
    supervised = []
    last_of: dict[Span, int] = {}
    for index, (start, end) in enumerate(tokens):
        place = bisect_right(starts, start) - 1
        inside = place >= 0 and start < spans[place][1]
        if inside and end > spans[place][1]:
            # A terminator may take in the white space that follows it; any other overhang is not the assistant's.
            inside = text[spans[place][1] : end].isspace()
        if index == 0 and ids[0] == tokenizer.bos_token_id:
            inside = False
        if inside:
            last_of[spans[place]] = index
        supervised.append(inside)
    ends = [max((last_of.get(span, -1) for span in turn), default=-1) for turn in turns]
    return Encoded(ids, supervised, text, ends, tokens)


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[Span]]:
    """Ids and the characters of each. Begins with one begin-of-text token where the text or the tokenizer wants it.

    One that the tokenizer adds has the span (-1, 0): it lies before every character.
    """
    if not tokenizer.is_fast:
        what = f"{type(tokenizer).__name__} does not say which characters a token came from"
        mend = "use a model whose folder has a tokenizer.json"
        raise Refused(Finding("template.slow-tokenizer", "model.name", what, mend, "masks are made from characters"))
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, spans = list(encoding["input_ids"]), _with_trimmed_spaces(encoding.tokens(), encoding["offset_mapping"])
    bos = tokenizer.bos_token_id
    if bos is None:
        return ids, spans
    while ids[:2] == [bos, bos]:
        ids, spans = ids[1:], spans[1:]
    if ids[:1] != [bos] and tokenizer("a", verbose=False)["input_ids"][:1] == [bos]:
        ids, spans = [bos, *ids], [(-1, 0), *spans]
    return ids, spans


def _with_trimmed_spaces(tokens: list[str], offsets: list[Span]) -> list[Span]:
    """Offsets that cover a token's own spaces, which byte-level post-processors trim (``trim_offsets``).

    Without them " hello" after "Answer: " would seem to begin at the "h", and a token that reaches from the prompt into
    the answer would pass for one of the answer's.
    """
    spans: list[Span] = []
    covered = 0
    for index, (token, (start, end)) in enumerate(zip(tokens, offsets, strict=True)):
        leading = _spaces_at_start(token)
        start = min(start, max(covered, start - leading))
        if leading < len(token):
            limit = offsets[index + 1][0] if index + 1 < len(offsets) else end
            end = max(end, min(end + _spaces_at_start(token[::-1]), limit))
        spans.append((start, end))
        covered = max(covered, end)
    return spans


def _spaces_at_start(token: str) -> int:
    """Spaces are written Ġ in byte-level tokens; added tokens are written as they are."""
    return next((at for at, letter in enumerate(token) if letter != "Ġ" and not letter.isspace()), len(token))
