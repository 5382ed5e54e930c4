"""Real shapes of chat templates × conversations × contents: what is taught is the answer and its terminator, exactly.

By the bytes of the tokens, not by offsets: one token stands for one byte, or for one of the template's own markers.
Every assistant turn is taught in exactly one row, after what the template writes before it at that time; or the row is
refused with the reason that is expected of this template, and no other.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Any

import pytest
from chat_shapes import SHAPES, Refuses, Segment, Shape, calls_of, text_of
from tiny_tokenizers import token_bytes

from luthier.data.text.dialogue import Dialogue
from luthier.types import Refused

Row = list[tuple[str, bool]]
PADS = (None, "<pad>", "eos")
CALL = {"id": "a1b2c3d4e", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "é"}}}
TEXT_CALL = {**CALL, "function": {"name": "add", "arguments": '{"a": 1, "b": "é"}'}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}]
PIECES = [
    "hello",
    " ",
    "  ",
    "\n",
    "\n\n",
    "🎉",
    "é",
    "日本",
    "{{ x }}",
    "{% if %}",
    "1+1=2",
    "'",
    '"',
    "\\n",
    "\t",
    "</",
    "<|",
]
MARKERS = [
    "<|im_start|>", "<|im_end|>", "<|im_end|>\n<|im_start|>assistant\n", "</s>", "<s>", "[INST]", "[/INST]",
    "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|end|>", "<|user|>", "<|assistant|>\n", "User:", "Assistant:", "[TOOL_CALLS]",
    "<|endoftext|>", "assistant=", "A:", "<|Assistant|>", "<think>", "</think>", "<think>hm</think>", "<<SYS>>",
]  # fmt: skip


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **rest: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **rest}


def tool(content: str) -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": CALL["id"]}


SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "single": [user("hi"), assistant("yo")],
    "several": [user("hi"), assistant("yo"), user("so?"), assistant("no"), user("hi"), assistant("yo")],
    "system": [SYSTEM, user("hi"), assistant("yo")],
    "system, several": [SYSTEM, user("hi"), assistant("yo"), user("so?"), assistant("no")],
    "an empty question": [user(""), assistant("yo"), user(" "), assistant("no")],
    "thoughts": [
        user("q"), assistant("<think>\nhm\n</think>\n\na"), user("r"), assistant("<think>\nso\n</think>\n\nb"),
    ],
    "a call": [user("1+1?"), assistant("", tool_calls=[CALL]), tool("2"), assistant("It is 2.")],
    "a call later": [
        user("hi"), assistant("yo"), user("1+1?"), assistant("", tool_calls=[CALL]), tool("2"), assistant("It is 2."),
    ],
    "calls between": [
        SYSTEM, user("hi"), assistant("yo"), user("1+1?"), assistant("Wait.", tool_calls=[TEXT_CALL, CALL]), tool("2"),
        tool("3"), assistant("It is 2."), user("so?"), assistant("no"),
    ],
}  # fmt: skip


def expected_rows(shape: Shape, messages: list[dict[str, Any]], tools: Any) -> list[Row]:
    """Rows as runs of (text, taught). Where the whole does not begin with each of its prefixes, a row an exchange, and
    a row a turn where an exchange does not. Raises Refuses."""
    written = {end: shape.write(messages[:end], tools) for end in answers_end(messages)}
    ends = [len(messages)]
    if not keeps(written, ends[-1]):
        ends = []
        for first, last in itertools.pairwise([0, *exchange_ends(messages)]):
            within = [end for end in written if first < end <= last]
            ends += [last] if all(begins(written[last], written[end], end) for end in within) else within
    rows, claimed = [], -1
    for end in ends:
        if lost := lost_of(messages[:end], written[end], tools, claimed):
            raise Refuses(f"template.drops: {lost}")
        pieces = [(text, turn is not None and turn > claimed) for text, turn in written[end]]
        if shape.unended and not text_of(messages[end - 1]).endswith(shape.eos):
            pieces.append((shape.eos, True))
        rows.append(runs(shape, pieces))
        claimed = end - 1
    return rows


def answers_end(messages: list[dict[str, Any]]) -> list[int]:
    return [index + 1 for index, message in enumerate(messages) if message["role"] == "assistant"]


def exchange_ends(messages: list[dict[str, Any]]) -> list[int]:
    starts = [index for index, message in enumerate(messages) if message["role"] == "user"]
    return [*starts[1:], len(messages)]


def keeps(written: dict[int, list[Segment]], whole: int) -> bool:
    return all(begins(written[whole], segments, end) for end, segments in written.items())


def begins(whole: list[Segment], part: list[Segment], end: int) -> bool:
    """Whether the whole begins as the part does, up to where the part's last answer ends."""
    last = max(at for at, (_, turn) in enumerate(part) if turn == end - 1)
    text = "".join(text for text, _ in part[: last + 1])
    return "".join(text for text, _ in whole).startswith(text)


def lost_of(messages: list[dict[str, Any]], segments: list[Segment], tools: Any, claimed: int) -> str:
    """What of the row's own words stands nowhere in it, white space aside."""

    def squeezed(text: str) -> str:
        return "".join(text.split())

    whole = squeezed("".join(text for text, _ in segments))
    for index, message in enumerate(messages):
        there = whole
        if message["role"] == "assistant":
            if index <= claimed:
                continue
            there = squeezed("".join(text for text, turn in segments if turn == index))
        said = [squeezed(text_of(message)), squeezed(json.dumps(text_of(message), ensure_ascii=False)[1:-1])]
        if not any(one in there for one in said):
            return f"turn {index}"
        if any(call["name"] not in there for call in calls_of(message)):
            return f"call of {index}"
    return "tools" if any(t["function"]["description"] not in whole for t in tools or []) else ""


def runs(shape: Shape, pieces: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Joined where neighbours are alike, and without the white space that the tokens before it take in."""
    letters = [(letter, taught) for text, taught in pieces for letter in text]
    if shape.takes_space:
        text = "".join(letter for letter, _ in letters)
        taken = re.compile("(?:" + "|".join(map(re.escape, shape.takes_space)) + r")(\s+)")
        gone = {at for found in taken.finditer(text) for at in range(*found.span(1))}
        letters = [pair for at, pair in enumerate(letters) if at not in gone]
    grouped = itertools.groupby(letters, key=lambda pair: pair[1])
    return [("".join(letter for letter, _ in group), taught) for taught, group in grouped]


def encoded_rows(
    shape: Shape, tokenizer: Any, messages: list[dict[str, Any]], tools: Any
) -> list[list[tuple[str, bool]]]:
    made = Dialogue(tokenizer, messages, tools, "all", 10**6, "a.jsonl:1:messages").rows("error")
    rows = []
    for row in made.rows:
        grouped = itertools.groupby(zip(row.input_ids, row.supervised, strict=True), key=lambda pair: pair[1])
        rows.append([(b"".join(token_bytes(tokenizer, i) for i, _ in run).decode(), taught) for taught, run in grouped])
        ends = [row.input_ids[at] for at in row.turn_ends]
        assert all(row.supervised[at] for at in row.turn_ends)
        assert shape.unended or all(i in tokenizer.added_tokens_decoder for i in ends)
    return rows


def agree(shape: Shape, tokenizer: Any, messages: list[dict[str, Any]], tools: Any) -> str:
    """Compare; returns "taught" or the code of the refusal."""
    expected, code = None, ""
    try:
        expected = expected_rows(shape, messages, tools)
    except Refuses as refuses:
        code = str(refuses).partition(":")[0]
    if expected is None:
        with pytest.raises(Refused) as caught:
            encoded_rows(shape, tokenizer, messages, tools)
        codes = {finding.code for finding in caught.value.findings}
        assert code in codes, messages
        assert len(codes) == 1 or codes == {"template.prefix", "template.drops"}
        assert all(finding.where.startswith("a.jsonl:1:messages") for finding in caught.value.findings)
        return code
    assert encoded_rows(shape, tokenizer, messages, tools) == expected, messages
    return "taught"


# Of each conversation above, in order: taught (t), or the code of the refusal.
NO_TOOLS = "t t t t t t drops drops drops"
OUTCOMES = {
    "our chatml": "t t t t t t t t t",
    "our plain": "t t t t t t t t t",
    "llama 2": "t t t t t t role role role",
    "llama 3 dated": "t t t t t t t t role",
    "llama 3 at a date": "t t t t t t t t role",
    "gemma": "t t role role t t role role role",
    "mistral": "t t prefix prefix t t t t prefix",
    "qwen 3": "t t t t t t t t t",
    "qwen 3 told not to think": "t t t t t prefix t t t",
    "deepseek r1": "prefix prefix prefix prefix prefix prefix prefix prefix prefix",
    "forgets thoughts": "t t t t t drops drops drops drops",
}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_every_shape_with_every_kind_of_conversation(shape: Shape) -> None:
    outcomes = []
    for messages in CONVERSATIONS.values():
        called = any(calls_of(message) for message in messages)
        found = {agree(shape, shape.tokenizer(pad), messages, TOOLS if called else None) for pad in PADS}
        assert len(found) == 1
        outcomes.append(found.pop())
    told = " ".join({"taught": "t"}.get(outcome, outcome.removeprefix("template.")) for outcome in outcomes)
    assert told == OUTCOMES.get(shape.name, NO_TOOLS), told


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_fuzz_of_contents(shape: Shape) -> None:
    """Contents of pieces and of markers, the template's own among them; a marker in the user's words begins no turn."""
    generator = random.Random(shape.name)
    tokenizer = shape.tokenizer("eos")
    own = [*MARKERS, *shape.special, shape.eos, *shape.takes_space]
    taught = 0
    for _ in range(150):

        def content(least: str = "") -> str:
            return "".join(generator.choices([*PIECES, *own], k=generator.randint(0, 5))) or least

        messages = [{"role": "system", "content": content("s")}] if generator.random() < 0.3 else []
        for _ in range(generator.randint(1, 3)):
            messages += [user(content()), assistant((content("a").strip() and content("a")) or "a")]
        taught += agree(shape, tokenizer, messages, None) == "taught"
    assert taught > 0 or shape.name == "deepseek r1"
