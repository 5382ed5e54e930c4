"""The characters of a rendered conversation that the assistant wrote: the spans that are supervised.

Two derivations, in this order: the template's own ``{% generation %}`` marks; else what follows the prompt. For both
the prompt up to a turn, rendered as for generation, must begin the conversation up to and with that turn, which must
begin the whole: else training would see other prompts than generation does, and the conversation is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from luthier.data.text.render import Rendered, Span, render
from luthier.types import Finding, Message, Refused

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "zxqanswerqxz"
SHOWN = 40
MOST_FINDINGS = 20


@dataclass(frozen=True)
class Turn:
    """The spans of one assistant turn, in order, and whether the last of them ends in a terminator."""

    spans: list[Span]
    terminated: bool


@dataclass(frozen=True)
class Terminators:
    """``ids`` and their spelling ``texts`` end a turn; ``special`` are all special tokens, which may close a span.

    ``tail`` is what the template writes after an answer (None where that is not known), of which the first ``stop``
    characters end in the terminator (0 where there is none).
    """

    ids: frozenset[int]
    texts: tuple[str, ...]
    special: tuple[str, ...]
    tail: str | None
    stop: int


def terminators(tokenizer: PreTrainedTokenizerBase) -> Terminators:
    """The tokens that end an assistant's turn: the tokenizer's end of text, and the template's end of turn."""
    return _terminators(tokenizer, str(tokenizer.chat_template or ""), tokenizer.eos_token_id, len(tokenizer))


@lru_cache(maxsize=8)
def _terminators(tokenizer: PreTrainedTokenizerBase, template: str, eos: int | None, size: int) -> Terminators:
    added = {token.content: (index, token.special) for index, token in tokenizer.added_tokens_decoder.items()}
    found = {str(tokenizer.eos_token): eos} if eos is not None else {}
    known = {**{text: index for text, (index, _) in added.items()}, **found}
    tail, stop = _after_answer(tokenizer) if template else None, 0
    after = tail or ""
    places = sorted((after.find(text), -len(text), text) for text in known if text.strip() and text in after)
    if places:
        at, _, text = places[0]
        found[text], stop = known[text], at + len(text)
    special = {text for text, (_, is_special) in added.items() if is_special}
    longest_first = sorted(found, key=len, reverse=True)
    return Terminators(frozenset(found.values()), tuple(longest_first), tuple(special | set(found)), tail, stop)


def _after_answer(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What the template writes after an assistant's text, where that can be told."""
    try:
        text = render(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE}]).text
    except Refused:  # it wants more than two plain turns; the end-of-text token is then all that is known
        return None
    return text.rpartition(PROBE)[2] if PROBE in text else None


def assistant_turns(
    tokenizer: PreTrainedTokenizerBase, rendered: Rendered, messages: Sequence[Message], turns: Sequence[int], *,
    tools: Sequence[dict[str, Any]] | None, where: str,
) -> list[Turn]:  # fmt: skip
    """The spans of the assistant turns with the indices ``turns`` in ``messages``, terminators included.

    Raises Refused with ``template.prefix`` for every turn whose spans cannot be derived.
    """
    if not turns:
        return []
    spans = _marked(tokenizer, rendered, messages, turns, tools, where)
    marked = bool(spans)
    after = _by_prefixes(tokenizer, rendered.text, messages, turns, spans, tools, where)
    ends = terminators(tokenizer)
    return [_close(rendered.text, of_turn, ends, marked=marked) for of_turn in spans or after]


def _marked(
    tokenizer: PreTrainedTokenizerBase, rendered: Rendered, messages: Sequence[Message], turns: Sequence[int],
    tools: Sequence[dict[str, Any]] | None, where: str,
) -> list[list[Span]]:  # fmt: skip
    """The template's marks, by turn; empty where it has none, or where they miss the text that they should mark."""
    if not rendered.marks:
        return []
    all_turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    counts = list(range(1, len(all_turns) + 1))
    if len(rendered.marks) != len(all_turns):
        counts = [len(render(tokenizer, messages[: i + 1], tools=tools, where=where).marks) for i in all_turns]
    marks = {
        index: rendered.marks[before:count]
        for index, before, count in zip(all_turns, [0, *counts], counts, strict=False)
    }
    # transformers counts characters while the template streams, so marks inside a macro or a `set` block are misplaced.
    placed = all(_covers(rendered.text, marks[index], messages[index].get("content")) for index in turns)
    return [marks[index] for index in turns] if placed else []


def _covers(text: str, spans: list[Span], content: Any) -> bool:
    if not spans or not isinstance(content, str) or content.strip() not in text:
        return True  # the template leaves this turn out, or rewrites it and marks what it made of it
    return content.strip() in "".join(text[start:end] for start, end in spans)


def _by_prefixes(
    tokenizer: PreTrainedTokenizerBase, text: str, messages: Sequence[Message], turns: Sequence[int],
    marked: list[list[Span]], tools: Sequence[dict[str, Any]] | None, where: str,
) -> list[list[Span]]:  # fmt: skip
    """What follows the prompt of each turn. What stands before the end of a marked turn is compared, too."""
    spans: list[list[Span]] = []
    findings: list[Finding] = []
    for place, index in enumerate(turns):
        at = f"{where}[{index}]"
        prompt = render(tokenizer, messages[:index], tools=tools, add_generation_prompt=True, where=at).text
        last = index == len(messages) - 1
        upto = text if last else render(tokenizer, messages[: index + 1], tools=tools, where=at).text
        end = max((end for _, end in marked[place]), default=len(prompt)) if marked else len(upto)
        if not upto.startswith(prompt):
            findings.append(
                _diverges(at, "the prompt that generation sees", prompt, "the turn in training", upto, turns)
            )
        elif not text.startswith(upto[:end]):
            findings.append(_diverges(at, "the conversation up to this turn", upto, "the whole", text, turns))
        spans.append([(len(prompt), len(upto))])
        if len(findings) == MOST_FINDINGS:
            break
    if findings:
        raise Refused(*findings)
    return spans


def _diverges(at: str, a_name: str, a: str, b_name: str, b: str, turns: Sequence[int]) -> Finding:
    same = next(
        (place for place, (left, right) in enumerate(zip(a, b, strict=False)) if left != right), min(len(a), len(b))
    )
    before = a[max(0, same - SHOWN) : same]
    what = (
        f"the chat template writes {a_name} and {b_name} differently: after {before!r} comes "
        f"{a[same : same + SHOWN]!r} in the one and {b[same : same + SHOWN]!r} in the other"
    )
    mend = "mark the assistant's text with {% generation %} in the template, or set another `model.template`"
    if len(turns) > 1:
        mend = f"supervise only the last turn (`train_on: last`), or {mend}"
    return Finding("template.prefix", at, what, mend, "the model would train on prompts that generation never makes")


def _close(text: str, spans: list[Span], ends: Terminators, *, marked: bool) -> Turn:
    """End the last span with the turn's terminator: cut what the template writes after it, or reach out to it.

    The template's own tail is looked for first: an answer may itself end in what looks like a terminator.
    """
    if not spans:
        return Turn([], False)
    *before, (start, end) = spans
    span = text[start:end]
    if marked and ends.tail and ends.stop and text.startswith(ends.tail[: ends.stop], end):
        return Turn([*before, (start, end + ends.stop)], True)
    if ends.tail is not None and span.endswith(ends.tail):
        body = end - len(ends.tail)
        if ends.stop:
            return Turn([*before, (start, body + ends.stop)], True)
        written = text[start:body].endswith(ends.texts)
        return Turn([*before, (start, body)] if written else spans, written)
    if span.endswith(ends.special):
        return Turn(spans, True)
    if span.rstrip().endswith(ends.special):
        return Turn([*before, (start, start + len(span.rstrip()))], True)
    rest = text[end:]
    gap = len(rest) - len(rest.lstrip())
    found = next((known for known in ends.texts if rest.startswith(known, gap)), None)
    if found is None:
        return Turn(spans, False)
    return Turn([*before, (start, end + gap + len(found))], True)
