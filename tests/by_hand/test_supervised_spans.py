"""Which tokens are supervised: masks counted by hand, and a fuzz against the bytes that the tokens stand for."""

from __future__ import annotations

import random
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import byte_level, metaspace, token_bytes, wordpiece
from tokenizers import AddedToken
from transformers import AutoTokenizer

from luthier.data.text.template import encode_chat, encode_prompt, load_template, terminator_supervised
from luthier.types import Refused

STORIES = Path(__file__).parents[2].parent / "shared" / "models" / "stories260k"

JOINED = "{% for m in messages %}{{ m.content }}{% endfor %}"
BARE = (
    "{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ '\n' }}{% endfor %}"
    "{{ 'assistant:' if add_generation_prompt }}"
)
INSTRUCT = (  # no generation prompt: the user's turn ends where the answer begins
    "{{ bos_token }}{% for m in messages %}"
    "{{ '[INST] ' ~ m.content ~ ' [/INST]' if m.role == 'user' else ' ' ~ m.content ~ ' ' ~ eos_token }}{% endfor %}"
)
CONTENT_MARKED = (  # marks around the content alone, a space before the terminator
    "{% for m in messages %}{{ m.role ~ '=' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{{ ' ' ~ eos_token ~ '\n' }}{% else %}{{ m.content ~ '\n' }}{% endif %}{% endfor %}"
    "{{ 'assistant=' if add_generation_prompt }}"
)
STRIPS_THINKING = (  # what earlier turns thought is left out, as reasoning templates do
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' }}"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' and not loop.last else m.content }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)
DEFAULT_SYSTEM = (
    "{{ '<|im_start|>system\nBe good.<|im_end|>\n' if messages[0].role != 'system' }}{% for m in messages %}"
    "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str | None, **rest: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **rest}


def templated(tokenizer: Any, template: str) -> Any:
    if template in ("plain", "chatml"):
        load_template(tokenizer, template)
    else:
        tokenizer.chat_template = template
    return tokenizer


def taught(tokenizer: Any, messages: list[dict[str, Any]], **settings: Any) -> list[str]:
    """The text of each run of supervised tokens, by the bytes of its tokens."""
    encoded = encode_chat(tokenizer, messages, **settings)
    runs = groupby(zip(encoded.input_ids, encoded.supervised, strict=True), key=lambda pair: pair[1])
    return [b"".join(token_bytes(tokenizer, i) for i, _ in run).decode() for supervised, run in runs if supervised]


SINGLE = [user("hi"), assistant("yo")]
SEVERAL = [user("hi"), assistant("yo"), user("so?"), assistant("no")]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
WITH_TOOLS = [
    {"role": "system", "content": "Be kind."}, user("1+1?"), assistant(None, tool_calls=[CALL]),
    {"role": "tool", "content": "2"}, assistant("It is 2."),
]  # fmt: skip


def test_single_turn_counted_by_hand() -> None:
    """One token a byte. "User: hi\n" has 9 characters and "Assistant:" 10: 19 are the prompt's. " yo" and the
    terminator are 4 tokens; the newline after them, 1 token, is the template's."""
    tokenizer = templated(byte_level(0), "plain")
    encoded = encode_chat(tokenizer, SINGLE)
    assert encoded.supervised == [False] * 19 + [True] * 4 + [False]
    assert encoded.input_ids[22] == tokenizer.eos_token_id
    assert encoded.turn_ends == [22]
    assert encoded.text == "User: hi\nAssistant: yo</s>\n"


def test_multi_turn_counted_by_hand() -> None:
    """After the 24 tokens of the first exchange (counted above), "User: so?\nAssistant:" has 10 + 10 characters, and
    " no" and the terminator are 4 tokens at 44 to 47, with a newline after them."""
    tokenizer = templated(byte_level(0), "plain")
    first = [False] * 19 + [True] * 4 + [False]
    every = encode_chat(tokenizer, SEVERAL)
    last = encode_chat(tokenizer, SEVERAL, train_on="last")
    assert every.supervised == [*first, *[False] * 20, *[True] * 4, False]
    assert last.supervised == [*[False] * 44, *[True] * 4, False]
    assert (every.turn_ends, last.turn_ends) == ([22, 47], [47])
    assert every.input_ids == last.input_ids


@pytest.mark.parametrize("template", ["plain", "chatml"])
def test_system_and_tool_turns_are_never_supervised(template: str) -> None:
    tokenizer = templated(byte_level(), template)
    lead, end = {"plain": (" ", "</s>"), "chatml": ("", "<|im_end|>")}[template]
    call = lead + '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>' + end
    tools = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}}]
    assert taught(tokenizer, WITH_TOOLS, tools=tools) == [call, lead + "It is 2." + end]
    assert taught(tokenizer, WITH_TOOLS, tools=tools, train_on="last") == [lead + "It is 2." + end]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("chatml", ["yo<|im_end|>", "no<|im_end|>"]),   # marks around content and terminator
        (CONTENT_MARKED, ["yo </s>", "no </s>"]),   # marks around the content alone: reach out to the terminator
        (INSTRUCT, [" yo </s>", " no </s>"]),   # prefixes, no generation prompt
        (DEFAULT_SYSTEM, ["yo<|im_end|>", "no<|im_end|>"]),   # prefixes; the newline after the terminator is left out
        (BARE, ["yo\n", "no\n</s>"]),   # no terminator: end of text after the last turn, and what leads up to it
    ],
)  # fmt: skip
@pytest.mark.parametrize("build", [byte_level, metaspace])
def test_spans_of_each_kind_of_template(build: Any, template: str, expected: list[str]) -> None:
    tokenizer = templated(build(0), template)
    assert taught(tokenizer, SEVERAL) == expected
    assert taught(tokenizer, SEVERAL, train_on="last") == expected[1:]


def test_marks_that_are_misplaced_give_way_to_prefixes() -> None:
    """transformers counts characters while the template streams; inside a macro nothing streams, so the marks of this
    template point to the beginning of the text."""
    marked = (
        "{% macro turn(m) %}{{ m.role ~ ':' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content ~ eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endmacro %}{% for m in messages %}{{ turn(m) }}"
        "{% endfor %}{{ 'assistant:' if add_generation_prompt }}"
    )
    assert taught(templated(byte_level(0), marked), SEVERAL) == ["yo</s>", "no</s>"]


def test_several_marks_in_a_turn_belong_to_it() -> None:
    marked = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.thought %}<t>{% generation %}{{ m.thought }}"
        "{% endgeneration %}</t>{% endif %}{% generation %}{{ m.content ~ eos_token }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    tokenizer = templated(byte_level(0), marked)
    messages = [user("q"), assistant("a"), user("r"), assistant("b", thought="hm")]
    assert taught(tokenizer, messages) == ["a</s>", "hm", "b</s>"]
    assert taught(tokenizer, messages, train_on="last") == ["hm", "b</s>"]
    assert terminator_supervised(encode_chat(tokenizer, messages), tokenizer)


def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_difference() -> None:
    tokenizer = templated(byte_level(0), STRIPS_THINKING)
    messages = [user("q"), assistant("<think>hm</think>a"), user("r"), assistant("<think>so</think>b")]
    with pytest.raises(Refused) as caught:
        encode_chat(tokenizer, messages, where="chats.jsonl:7:messages")
    (finding,) = caught.value.findings
    assert (finding.code, finding.where) == ("template.prefix", "chats.jsonl:7:messages[1]")
    assert "comes '<think>hm</think>a<|im_end|>" in finding.what
    assert "and 'a<|im_end|>" in finding.what
    assert "train_on: last" in finding.mend
    # The last turn alone is what generation sees, and prompts are never refused for it.
    assert taught(tokenizer, messages, train_on="last") == ["<think>so</think>b<|im_end|>"]
    assert encode_prompt(tokenizer, messages[:3])


def test_a_generation_prompt_that_training_does_not_see_is_refused() -> None:
    template = (
        "{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ eos_token }}{% endfor %}"
        "{{ 'assistant:<think>' if add_generation_prompt }}"
    )
    with pytest.raises(Refused, match=r"template\.prefix") as caught:
        encode_chat(templated(byte_level(0), template), SEVERAL)
    assert [finding.where for finding in caught.value.findings] == ["messages[1]", "messages[3]"]


@pytest.mark.parametrize("template", ["plain", "chatml", BARE, INSTRUCT])
@pytest.mark.parametrize("build", [byte_level, metaspace])
def test_the_padding_token_makes_no_difference(build: Any, template: str) -> None:
    pads = (None, "<pad>", "</s>", "<|im_end|>")
    rows = [encode_chat(templated(build(pad=pad), template), SEVERAL) for pad in pads]
    assert all(row == rows[0] for row in rows)
    assert rows[0].supervised[rows[0].turn_ends[-1]]


@pytest.mark.parametrize("trim", [False, True])
def test_a_token_that_straddles_the_border_is_masked(trim: bool) -> None:
    """ "hel" and "lo world" join to the tokens "hello", " world": "hello" begins in the prompt and is not supervised.
    So with "hello " and "world", where a tokenizer that trims its offsets says that " world" begins at the "w"."""
    tokenizer = templated(byte_level(trim=trim), JOINED)
    encoded = encode_chat(tokenizer, [user("hel"), assistant("lo world")])
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == ["hello", "Ġworld", "</s>"]
    assert encoded.supervised == [False, True, True]
    spaced = encode_chat(tokenizer, [user("hello "), assistant("world")])
    assert spaced.input_ids == encoded.input_ids
    assert spaced.supervised == [False, False, True]


def test_several_tokens_of_one_character() -> None:
    """An emoji is 4 bytes; where no token joins them, 4 tokens share its characters, and all are on one side."""
    encoded = encode_chat(templated(byte_level(0), JOINED), [user("🎉"), assistant("🎉")])
    assert encoded.supervised == [False] * 4 + [True] * 4 + [True]


def test_a_terminator_that_takes_in_the_newline_after_it_is_supervised() -> None:
    tokenizer = byte_level(0)
    tokenizer.add_tokens([AddedToken("<|end|>", rstrip=True, special=True)], special_tokens=True)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ '<|end|>\n' }}{% endfor %}"
        "{{ 'assistant:' if add_generation_prompt }}"
    )
    encoded = encode_chat(tokenizer, SEVERAL)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert [encoded.input_ids[at] for at in encoded.turn_ends] == [end, end]
    assert all(encoded.supervised[at] for at in encoded.turn_ends)
    assert encoded.input_ids[-1] == end


def test_wordpiece_counted_by_hand() -> None:
    """ "user:hi\nassistant:hel lo..." as pieces: user : hi assistant : | hel ##lo wor ##ld </s>."""
    encoded = encode_chat(templated(wordpiece(), BARE), [user("hi"), assistant("hello world")])
    assert encoded.supervised == [False] * 5 + [True] * 5


def test_an_answer_that_already_ends_in_the_terminator_gets_no_second_one() -> None:
    tokenizer = templated(byte_level(0), JOINED)
    assert taught(tokenizer, [user("q"), assistant("a</s>")]) == ["a</s>"]


def test_terminators_outside_the_loss_are_seen() -> None:
    tokenizer = templated(byte_level(0), BARE)
    assert terminator_supervised(encode_chat(tokenizer, SINGLE), tokenizer)
    several = encode_chat(tokenizer, SEVERAL)  # the first answer ends in a newline only
    assert not terminator_supervised(several, tokenizer)
    assert terminator_supervised(several, tokenizer, more=[several.input_ids[several.turn_ends[0]]])
    several.input_ids = several.input_ids[:-1]  # cut
    assert not terminator_supervised(several, tokenizer)


@pytest.mark.skipif(not STORIES.exists(), reason="../shared/models/stories260k is not there")
@pytest.mark.parametrize("template", ["plain", BARE])
def test_real_sentencepiece_tokenizer(template: str) -> None:
    tokenizer = templated(AutoTokenizer.from_pretrained(STORIES), template)
    messages = [user("Who 🎉?"), assistant("Lily, a girl."), user("Why?"), assistant("No é 日.")]
    encoded = encode_chat(tokenizer, messages)
    kept = [token for token, supervised in zip(encoded.input_ids, encoded.supervised, strict=True) if supervised]
    # A SentencePiece decoder drops the space that begins a text, and each turn of ``plain`` begins with one.
    expected = {"plain": "Lily, a girl.</s> No é 日.</s>", BARE: "Lily, a girl.\nNo é 日.\n</s>"}[template]
    assert tokenizer.decode(kept) == expected
    assert encoded.input_ids.count(tokenizer.bos_token_id) == 1
    assert terminator_supervised(encoded, tokenizer) == (template == "plain")
    prompt = encode_prompt(tokenizer, messages[:3])
    assert encoded.input_ids[: len(prompt)] == prompt


PIECES = [
    "hello", "world", " ", "  ", "\n", "\n\n", "###", "### Response:", "Assistant:", "User: ", "🎉", "❤", "café",
    "é", "…", "a", "1+1=2", "</", "<|", "\t", "ل", "👩‍👩‍👧", ":", ".", "naïve ", "日本",
]  # fmt: skip


def around(template: str, prompt: str, answer: str) -> tuple[str, str]:
    """What each template must write: (what the model is given, what it is taught)."""
    return {
        "plain": (f"User: {prompt}\nAssistant:", f" {answer}</s>"),
        "chatml": (f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", f"{answer}<|im_end|>"),
        JOINED: (prompt, f"{answer}</s>"),
    }[template]


@pytest.mark.parametrize("template", ["plain", "chatml", JOINED], ids=["plain", "chatml", "joined"])
@pytest.mark.parametrize("build", [byte_level, partial(byte_level, trim=True), metaspace])
def test_fuzz_supervised_bytes_are_the_answers_bytes(build: Any, template: str) -> None:
    """2,070 pairs over nine combinations. By bytes, not by offsets: the supervised tokens write the answer and its
    terminator; where they write less, exactly one token is missing, which began before the border and reached over it.
    Without such a token the prompt's own ids begin the row."""
    tokenizer = templated(build(), template)
    generator = random.Random(7)
    straddled = 0
    for _ in range(230):
        prompt, answer = ("".join(generator.choices(PIECES, k=generator.randint(1, 6))) for _ in range(2))
        given, expected = (part.encode() for part in around(template, prompt, answer))
        messages = [user(prompt), assistant(answer)]
        encoded = encode_chat(tokenizer, messages)
        written = [token_bytes(tokenizer, index) for index in encoded.input_ids]
        first = encoded.supervised.index(True)
        count = sum(encoded.supervised)
        assert all(encoded.supervised[first : first + count]), (prompt, answer)
        before, got = b"".join(written[:first]), b"".join(written[first : first + count])
        assert expected.endswith(got), (prompt, answer)
        assert before + got == given + expected, (prompt, answer)
        assert written[first + count - 1] in (b"</s>", b"<|im_end|>"), (prompt, answer)
        if got != expected:
            straddled += 1
            assert len(b"".join(written[: first - 1])) < len(given), (prompt, answer)
        elif template != JOINED:
            assert encode_prompt(tokenizer, messages[:1]) == encoded.input_ids[:first], (prompt, answer)
    assert straddled > 0 or template != JOINED
