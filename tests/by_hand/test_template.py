"""Templates, what they refuse, the tokens that begin and end a text, and rows shown with the supervised part marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import byte_level, metaspace

from luthier.data.text.template import (
    decode_marked,
    encode_chat,
    encode_prompt,
    encode_text,
    load_template,
    turn_terminators,
)
from luthier.types import Finding, Refused

MESSAGES = [
    {"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo", "tool_calls": None}, {"role": "user", "content": "so?"},
    {"role": "assistant", "content": "no"},
]  # fmt: skip
CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add"}}
CALLING = [
    {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "wait", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "2"}, {"role": "assistant", "content": "2"},
]  # fmt: skip
WITH_BOS = (
    "{{ bos_token }}{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ eos_token }}{% endfor %}"
    "{{ 'assistant:' if add_generation_prompt }}"
)


def templated(name: str, tokenizer: Any = None) -> Any:
    tokenizer = tokenizer or byte_level(0)
    load_template(tokenizer, name)
    return tokenizer


def finding_of(call: Any) -> Finding:
    with pytest.raises(Refused) as caught:
        call()
    (finding,) = caught.value.findings
    return finding


def test_plain_as_text() -> None:
    encoded = encode_chat(templated("plain"), MESSAGES)
    assert encoded.text == "Be kind.\nUser: hi\nAssistant: yo</s>\nUser: so?\nAssistant: no</s>\n"
    called = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    assert encode_chat(templated("plain"), CALLING, tools=[TOOL]).text == (
        'Available tool: {"type": "function", "function": {"name": "add"}}\n'
        f"User: 1+1?\nAssistant: wait {called} {called}</s>\nTool: 2\nAssistant: 2</s>\n"
    )


def test_chatml_as_text() -> None:
    encoded = encode_chat(templated("chatml"), MESSAGES)
    assert encoded.text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
        "<|im_start|>user\nso?<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n"
    )
    called = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    assert encode_chat(templated("chatml"), [MESSAGES[0], *CALLING], tools=[TOOL]).text == (
        '<|im_start|>system\nBe kind.\n\n# Tools\n{"type": "function", "function": {"name": "add"}}\n'
        'To call one, write <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>\n'
        f"<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\nwait\n{called}\n{called}<|im_end|>\n"
        "<|im_start|>tool\n2<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
    )


@pytest.mark.parametrize("name", ["plain", "chatml"])
@pytest.mark.parametrize("messages", [MESSAGES, CALLING], ids=["chat", "tools"])
def test_our_templates_have_the_prefix_property(name: str, messages: list[dict[str, Any]]) -> None:
    tokenizer = templated(name, byte_level(bos=True))
    whole = encode_chat(tokenizer, messages, tools=[TOOL])
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = encode_prompt(tokenizer, messages[:index], [TOOL])
            assert whole.input_ids[: len(prompt)] == prompt
            assert whole.supervised[len(prompt)]
            assert not whole.supervised[len(prompt) - 1]


def test_a_template_from_a_file_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8")
    tokenizer = byte_level(0)
    load_template(tokenizer, "mine.jinja", tmp_path)
    assert encode_chat(tokenizer, MESSAGES[1:3]).text == "hiyo</s>"


def test_templates_that_cannot_be_loaded() -> None:
    finding = finding_of(lambda: load_template(byte_level(0), "chatm"))
    assert (finding.code, finding.where, finding.mend) == (
        "template.unknown", "model.template", "did you mean 'chatml'?",
    )  # fmt: skip
    assert "chatml, plain" in finding_of(lambda: load_template(byte_level(0), "x.jinja")).mend
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=_without_turn_tokens(), eos_token="</s>")
    finding = finding_of(lambda: load_template(bare, "chatml"))
    assert finding.code == "template.tokens"
    assert "plain" in finding.mend
    load_template(bare, "plain")
    assert encode_chat(bare, MESSAGES).text.endswith("Assistant: no</s>\n")


def _without_turn_tokens() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(sorted(letters))}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return backend


def test_no_template() -> None:
    finding = finding_of(lambda: encode_chat(byte_level(0), MESSAGES))
    assert (finding.code, finding.where) == ("template.none", "model.template")
    assert "plain" in finding.mend
    assert "chatml" in finding.mend


@pytest.mark.parametrize(
    ("template", "code", "says"),
    [
        ("{{ raise_exception('System role not supported') if messages[0].role == 'system' }}", "template.role",
         "refuses the conversation (roles: system, user, assistant, user, assistant): System role not supported"),
        ("{{ messages[0].nothing.here }}", "template.render", "UndefinedError"),
        ("{% for m in messages %}", "template.render", "TemplateSyntaxError"),
        ("{{ messages[0].content + 1 }}", "template.render", "TypeError"),
        ("{{ ''.__class__.__mro__ }}", "template.render", "SecurityError"),
    ],
)  # fmt: skip
def test_templates_that_fail_name_the_row(template: str, code: str, says: str) -> None:
    tokenizer = byte_level(0)
    tokenizer.chat_template = template
    finding = finding_of(lambda: encode_chat(tokenizer, MESSAGES, where="chats.jsonl:3:messages"))
    assert (finding.code, finding.where) == (code, "chats.jsonl:3:messages")
    assert says in finding.what


def test_an_unknown_role_is_refused_by_plain() -> None:
    finding = finding_of(lambda: encode_chat(templated("plain"), [*MESSAGES[:2], {"role": "gpt", "content": "yo"}]))
    assert finding.code == "template.role"
    assert "gpt" in finding.what


@pytest.mark.parametrize("build", [byte_level, metaspace])
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("template", [WITH_BOS, "{{ bos_token }}" + WITH_BOS, WITH_BOS.replace("{{ bos_token }}", "")])
def test_one_begin_of_text_token_at_most(build: Any, bos: bool, template: str) -> None:
    """Where the template writes one or two, there is one; else there is one where the tokenizer itself adds one."""
    tokenizer = build(0, bos=bos)
    tokenizer.chat_template = template
    expected = 1 if bos or "bos_token" in template else 0
    encoded = encode_chat(tokenizer, MESSAGES[1:])
    prompt = encode_prompt(tokenizer, MESSAGES[1:2])
    assert encoded.input_ids.count(tokenizer.bos_token_id) == prompt.count(tokenizer.bos_token_id) == expected
    assert encoded.input_ids[: len(prompt)] == prompt
    assert not encoded.supervised[0]


@pytest.mark.parametrize("bos", [False, True])
def test_plain_text_counted_by_hand(bos: bool) -> None:
    """ "abc" is three tokens of one byte, then the end of text; all are supervised but the begin of text."""
    tokenizer = byte_level(0, bos=bos, pad="</s>")
    for text in ("abc", "abc</s>"):
        encoded = encode_text(tokenizer, text)
        assert encoded.supervised == [False] * bos + [True] * 4
        assert encoded.input_ids.count(tokenizer.eos_token_id) == 1
        assert encoded.input_ids[-1] == tokenizer.eos_token_id
    assert encode_text(tokenizer, "abc", add_eos=False).supervised == [False] * bos + [True] * 3
    assert encode_text(tokenizer, "<s>abc").supervised == [False] + [True] * 4


def test_terminators_are_the_end_of_text_and_the_templates_end_of_turn() -> None:
    tokenizer = byte_level(0)
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert turn_terminators(tokenizer) == {tokenizer.eos_token_id}
    assert turn_terminators(templated("chatml", tokenizer)) == {tokenizer.eos_token_id, end_of_turn}
    assert turn_terminators(templated("plain", tokenizer)) == {tokenizer.eos_token_id}


@pytest.mark.parametrize("build", [byte_level, lambda **settings: metaspace(0, **settings)])
def test_a_row_is_shown_with_the_supervised_part_marked(build: Any) -> None:
    tokenizer = templated("plain", build(bos=True))
    assert decode_marked(tokenizer, encode_chat(tokenizer, MESSAGES[1:])) == [
        ("<s>User: hi\nAssistant:", False), (" yo</s>", True), ("\nUser: so?\nAssistant:", False), (" no</s>", True),
        ("\n", False),
    ]  # fmt: skip


def test_the_caller_keeps_its_messages() -> None:
    before = [dict(message) for message in MESSAGES]
    encode_chat(templated("chatml"), MESSAGES)
    assert before == MESSAGES
