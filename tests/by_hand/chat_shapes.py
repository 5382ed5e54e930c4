"""Shapes of real chat templates, each with what it must write, said again in plain Python.

A writer gives the segments of a conversation's text, each with the index of the assistant turn that it belongs to, or
None where it is the prompt's: (text, turn). It raises ``Refuses`` where the template refuses the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tiny_tokenizers import byte_level
from tokenizers import AddedToken

from luthier.data.text.render import fix_options, load_template

TEMPLATES = Path(__file__).parent / "shapes"
Messages = Sequence[dict[str, Any]]
Segment = tuple[str, int | None]
Writer = Callable[[Messages, list[dict[str, Any]] | None], list[Segment]]


def read(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


class Refuses(Exception):
    """The template refuses the conversation, with this code."""


@dataclass(frozen=True)
class Shape:
    name: str
    template: str
    write: Writer
    eos: str = "</s>"
    bos: str | None = None
    special: tuple[str, ...] = ()
    takes_space: tuple[str, ...] = ()
    """Tokens that take in the white space after them (``rstrip``)."""
    options: dict[str, Any] = field(default_factory=dict)
    unended: bool = False
    """It writes no terminator: the end of text is added after a last answer that does not end in one itself."""

    def tokenizer(self, pad: str | None) -> Any:
        """One token a byte; ``pad``: the padding token, "eos" for the end of text, or none."""
        made = byte_level(0)
        named = [token for token in (self.eos, self.bos, *self.special) if token]
        made.add_special_tokens({"additional_special_tokens": named})
        made.add_tokens([AddedToken(t, rstrip=True, special=True) for t in self.takes_space], special_tokens=True)
        made.eos_token, made.bos_token = self.eos, self.bos or "<s>"
        if pad:
            made.pad_token = self.eos if pad == "eos" else pad
        if self.template in ("plain", "chatml"):
            load_template(made, self.template)
        else:
            made.chat_template = self.template
        fix_options(made, self.options)
        return made


def text_of(message: dict[str, Any]) -> str:
    return message.get("content") or ""


def calls_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Name and arguments of each call; arguments that are JSON as the object that they stand for."""
    calls = [call.get("function", call) for call in message.get("tool_calls") or []]
    return [
        {
            **call,
            "arguments": json.loads(call["arguments"]) if isinstance(call["arguments"], str) else call["arguments"],
        }
        for call in calls
    ]


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def split_system(messages: Messages) -> tuple[str | None, int]:
    """(the system turn's text, where the others begin)."""
    first = bool(messages) and messages[0]["role"] == "system"
    return (text_of(messages[0]) if first else None), int(first)


# ChatML, and its variants ---------------------------------------------------------------------------------------------

CHATML = read("chatml")


def chatml(messages: Messages, tools: Any, lead: str = "") -> list[Segment]:
    segments: list[Segment] = [(lead, None)]
    for index, message in enumerate(messages):
        segments.append((f"<|im_start|>{message['role']}\n", None))
        segments.append((f"{text_of(message)}<|im_end|>", index if message["role"] == "assistant" else None))
        segments.append(("\n", None))
    return segments


def ours_chatml(messages: Messages, tools: Any) -> list[Segment]:
    system, first = split_system(messages)
    segments: list[Segment] = []
    if tools:
        listed = "".join(f"{dumped(tool)}\n" for tool in tools)
        told = f"{system}\n\n" if system is not None else ""
        how = 'To call one, write <tool_call>{"name": ..., "arguments": ...}</tool_call>.'
        segments.append((f"<|im_start|>system\n{told}# Tools\n{listed}{how}<|im_end|>\n", None))
    elif system is not None:
        segments.append((f"<|im_start|>system\n{system}<|im_end|>\n", None))
    for index, message in enumerate(messages[first:], start=first):
        said = text_of(message)
        for call in calls_of(message):
            written = (
                f'<tool_call>{{"name": {dumped(call["name"])}, "arguments": {dumped(call["arguments"])}}}</tool_call>'
            )
            said += f"\n{written}" if said else written
        segments.append((f"<|im_start|>{message['role']}\n", None))
        segments.append((f"{said}<|im_end|>", index if message["role"] == "assistant" else None))
        segments.append(("\n", None))
    return segments


def plain(messages: Messages, tools: Any) -> list[Segment]:
    system, first = split_system(messages)
    segments: list[Segment] = [(f"{system}\n" if system is not None else "", None)]
    segments += [(f"Available tool: {dumped(tool)}\n", None) for tool in tools or []]
    for index, message in enumerate(messages[first:], start=first):
        said = f" {text_of(message)}" if text_of(message) else ""
        for call in calls_of(message):
            said += (
                f' <tool_call>{{"name": {dumped(call["name"])}, "arguments": {dumped(call["arguments"])}}}</tool_call>'
            )
        segments.append((f"{message['role'].capitalize()}:", None))
        if message["role"] == "assistant":
            segments += [(f"{said}</s>", index), ("\n", None)]
        else:
            segments.append((f"{said}\n", None))
    return segments


DEFAULT_SYSTEM = read("default_system")


def default_system(messages: Messages, tools: Any) -> list[Segment]:
    has = messages[0]["role"] == "system"
    return chatml(messages, tools, "" if has else "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")


# Marks around the content alone; the terminator comes after a space.
CONTENT_MARKED = read("content_marked")


def content_marked(messages: Messages, tools: Any) -> list[Segment]:
    segments: list[Segment] = []
    for index, message in enumerate(messages):
        segments.append((f"{message['role']}=", None))
        if message["role"] == "assistant":
            segments += [(f"{text_of(message)} </s>", index), ("\n", None)]
        else:
            segments.append((f"{text_of(message)}\n", None))
    return segments


# Llama, Gemma, Phi, Zephyr --------------------------------------------------------------------------------------------

LLAMA_2 = read("llama_2")


def alternating(messages: Messages, first: int) -> None:
    for at, message in enumerate(messages[first:]):
        if (message["role"] == "user") != (at % 2 == 0):
            raise Refuses("template.role")


def llama_2(messages: Messages, tools: Any) -> list[Segment]:
    system, first = split_system(messages)
    alternating(messages, first)
    segments: list[Segment] = []
    for index, message in enumerate(messages[first:], start=first):
        said = text_of(message)
        if index == first and system is not None:
            said = f"<<SYS>>\n{system}\n<</SYS>>\n\n{said}"
        if message["role"] == "user":
            segments.append((f"<s>[INST] {said.strip()} [/INST]", None))
        else:
            segments.append((f" {said.strip()} </s>", index))
    return segments


LLAMA_3 = read("llama_3")


def llama_3(messages: Messages, tools: Any) -> list[Segment]:
    segments: list[Segment] = [("<|begin_of_text|>", None)]
    for index, message in enumerate(messages):
        segments.append((f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n", None))
        said = f"{text_of(message).strip()}<|eot_id|>"
        segments.append((said, index if message["role"] == "assistant" else None))
    return segments


# Llama 3.2: today's date, unless it is given; tools in the first user turn; one call a turn.
LLAMA_DATED = read("llama_dated")


def llama_dated(date: str | None) -> Writer:
    def write(messages: Messages, tools: Any) -> list[Segment]:
        system, first = split_system(messages)
        today = date or datetime.now().strftime("%d %b %Y")
        head = f"Today Date: {today}\n\n{(system or '').strip()}<|eot_id|>"
        segments: list[Segment] = [("<|begin_of_text|>", None)]
        segments.append((f"<|start_header_id|>system<|end_header_id|>\n\n{head}", None))
        for index, message in enumerate(messages[first:], start=first):
            role, said = message["role"], text_of(message).strip()
            if calls := calls_of(message):
                if len(calls) != 1:
                    raise Refuses("template.role")
                said = f'{{"name": "{calls[0]["name"]}", "parameters": {dumped(calls[0]["arguments"])}}}'
            elif role == "tool":
                role, said = "ipython", dumped(text_of(message))
            elif index == first and tools:
                said = "".join(f"{dumped(tool)}\n\n" for tool in tools) + said
            segments.append((f"<|start_header_id|>{role}<|end_header_id|>\n\n", None))
            segments.append((f"{said}<|eot_id|>", index if role == "assistant" else None))
        return segments

    return write


GEMMA = read("gemma")


def gemma(messages: Messages, tools: Any) -> list[Segment]:
    if messages[0]["role"] == "system":
        raise Refuses("template.role")
    alternating(messages, 0)
    segments: list[Segment] = [("<bos>", None)]
    for index, message in enumerate(messages):
        ours = message["role"] == "assistant"
        segments.append((f"<start_of_turn>{'model' if ours else 'user'}\n", None))
        segments += [(f"{text_of(message).strip()}<end_of_turn>", index if ours else None), ("\n", None)]
    return segments


PHI_3 = read("phi_3")


def phi_3(messages: Messages, tools: Any) -> list[Segment]:
    segments: list[Segment] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            continue
        segments.append((f"<|{message['role']}|>\n", None))
        segments.append((f"{text_of(message)}<|end|>", index if message["role"] == "assistant" else None))
        segments.append(("\n", None))
    return segments


ZEPHYR = read("zephyr")


def zephyr(messages: Messages, tools: Any) -> list[Segment]:
    """Its generation prompt ends without the newline that stands before an answer: the newline is the answer's."""
    segments: list[Segment] = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            segments += [("<|assistant|>\n", None), (f"{text_of(message)}</s>", index), ("\n", None)]
        elif message["role"] != "tool":
            segments.append((f"<|{message['role']}|>\n{text_of(message)}</s>\n", None))
    return segments


# Mistral v3 -----------------------------------------------------------------------------------------------------------

MISTRAL = read("mistral")


def mistral(messages: Messages, tools: Any) -> list[Segment]:
    """Tools stand before the last user turn, and the system's text in it only where it is the last turn of all:
    generation sees it, and training, where an answer follows, would not."""
    system, first = split_system(messages)
    if system is not None:
        raise Refuses("template.prefix")
    segments: list[Segment] = [("<s>", None)]
    users = [message for message in messages if message["role"] == "user"]
    for index, message in enumerate(messages[first:], start=first):
        if message["role"] == "user":
            listed = f"[AVAILABLE_TOOLS] {dumped(tools)}[/AVAILABLE_TOOLS]" if tools and message == users[-1] else ""
            segments.append((f"{listed}[INST] {text_of(message)}[/INST]", None))
        elif message.get("tool_calls"):
            ids = [call["id"] for call in message["tool_calls"]]
            calls = [f'{dumped(c)[:-1]}, "id": "{i}"}}' for c, i in zip(calls_of(message), ids, strict=True)]
            segments.append((f"[TOOL_CALLS] [{', '.join(calls)}]</s>", index))
        elif message["role"] == "assistant":
            segments.append((f" {text_of(message)}</s>", index))
        else:
            told = f'{{"content": {text_of(message)}, "call_id": "{message["tool_call_id"]}"}}'
            segments.append((f"[TOOL_RESULTS] {told}[/TOOL_RESULTS]", None))
    return segments


# Templates that think -------------------------------------------------------------------------------------------------

QWEN_3 = read("qwen_3")
NO_THOUGHT = "<think>\n\n</think>\n\n"


def qwen_3(thinks: bool) -> Writer:
    def write(messages: Messages, tools: Any) -> list[Segment]:
        system, first = split_system(messages)
        segments: list[Segment] = []
        if tools:
            listed = "".join(f"\n{dumped(tool)}" for tool in tools)
            told = f"{system}\n\n" if system is not None else ""
            segments.append((f"<|im_start|>system\n{told}# Tools\n{listed}<|im_end|>\n", None))
        elif system is not None:
            segments.append((f"<|im_start|>system\n{system}<|im_end|>\n", None))
        query = max(index for index, message in enumerate(messages) if message["role"] == "user")
        for index, message in enumerate(messages[first:], start=first):
            role, said = message["role"], text_of(message)
            if role == "tool":
                opens = messages[index - 1]["role"] != "tool"
                closes = index == len(messages) - 1 or messages[index + 1]["role"] != "tool"
                told = f"\n<tool_response>\n{said}\n</tool_response>"
                segments.append(
                    (f"{'<|im_start|>user' if opens else ''}{told}{f'<|im_end|>{chr(10)}' if closes else ''}", None)
                )
                continue
            segments.append((f"<|im_start|>{role}\n", None))
            if role != "assistant":
                segments.append((f"{said}<|im_end|>\n", None))
                continue
            thought = ""
            if "</think>" in said:
                thought = said.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
                said = said.split("</think>")[-1].lstrip("\n")
            body = said
            if index > query and (index == len(messages) - 1 or thought):
                body = "<think>\n" + thought.strip("\n") + "\n</think>\n\n" + said.lstrip("\n")
            for at, call in enumerate(calls_of(message)):
                joined = (
                    f'<tool_call>\n{{"name": "{call["name"]}", "arguments": {dumped(call["arguments"])}}}\n</tool_call>'
                )
                body += ("\n" if at or said else "") + joined
            if not thinks and index == len(messages) - 1 and not body.startswith(NO_THOUGHT):
                raise Refuses("template.prefix")  # a thought after a prompt that has closed it
            if not thinks and body.startswith(NO_THOUGHT):
                segments.append((NO_THOUGHT, None))
                body = body.removeprefix(NO_THOUGHT)
            segments += [(f"{body}<|im_end|>", index), ("\n", None)]
        return segments

    return write


DEEPSEEK_R1 = read("deepseek_r1")


def deepseek_r1(messages: Messages, tools: Any) -> list[Segment]:
    """An answer is trained without the thought that generation is made to begin with."""
    raise Refuses("template.prefix")


# The same, always: the thought of no turn is written.
FORGETS = read("forgets")


def forgets(messages: Messages, tools: Any) -> list[Segment]:
    segments: list[Segment] = [("<s>", None)]
    segments += [(text_of(message), None) for message in messages if message["role"] == "system"]
    for index, message in enumerate(messages):
        if message["role"] == "user":
            segments.append((f"<|User|>{text_of(message)}", None))
        elif message["role"] == "assistant":
            segments += [("<|Assistant|>", None), (f"{text_of(message).split('</think>')[-1]}</s>", index)]
    return segments


# Marked for training, and earlier thoughts dropped: the marks alone would teach an answer without its thought.
MARKED_THINKING = read("marked_thinking")


def marked_thinking(messages: Messages, tools: Any) -> list[Segment]:
    last = len(messages) - 1
    kept = [
        {**m, "content": text_of(m).split("</think>")[-1]} if m["role"] == "assistant" and at != last else m
        for at, m in enumerate(messages)
    ]
    return chatml(kept, tools)


# Others ---------------------------------------------------------------------------------------------------------------

# No generation prompt, no white space: an answer begins where the user's turn ends.
NO_PROMPT = read("no_prompt")


def no_prompt(messages: Messages, tools: Any) -> list[Segment]:
    segments: list[Segment] = []
    for index, message in enumerate(messages):
        said = text_of(message)
        if message["role"] == "assistant":
            segments.append((f"{said}</s>", index))
        else:
            segments.append((f"[U]{said}[/U]" if message["role"] == "user" else f"[{message['role']}]{said}", None))
    return segments


# Turns of one side in a row become one: what the tools say is the user's.
MERGES = read("merges")


def merges(messages: Messages, tools: Any) -> list[Segment]:
    segments: list[Segment] = []
    side = ""
    for index, message in enumerate(messages):
        ours = message["role"] == "assistant"
        now = "A" if ours else "H"
        if now != side:
            segments.append((f"{'' if index == 0 else chr(10) * 2}{now}:", None))
        side = now
        said = f" {text_of(message)}" + "".join(f" {c['name']}{dumped(c['arguments'])}" for c in calls_of(message))
        segments.append((f"{said}</s>" if ours else said, index if ours else None))
    return segments


# No terminator at all: the end of text is added after the last answer.
BARE = read("bare")


def bare(messages: Messages, tools: Any) -> list[Segment]:
    segments: list[Segment] = []
    for index, message in enumerate(messages):
        ours = message["role"] == "assistant"
        segments.append((f"{message['role']}:", None))
        said = f"{text_of(message)}\n"
        if ours and text_of(message).endswith("</s>"):  # it ended itself
            segments += [(text_of(message), index), ("\n", None)]
        else:
            segments.append((said, index if ours else None))
    return segments


IM = ("<|im_start|>", "<|im_end|>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA = {"eos": "<|eot_id|>", "bos": "<|begin_of_text|>", "special": HEADERS}
SHAPES = [
    Shape("chatml", CHATML, chatml, eos="<|im_end|>", special=IM),
    Shape("our chatml", "chatml", ours_chatml),
    Shape("our plain", "plain", plain),
    Shape("default system", DEFAULT_SYSTEM, default_system, eos="<|endoftext|>", special=IM),
    Shape("content marked", CONTENT_MARKED, content_marked),
    Shape("llama 2", LLAMA_2, llama_2, bos="<s>"),
    Shape("llama 3", LLAMA_3, llama_3, **LLAMA),
    Shape("llama 3 dated", LLAMA_DATED, llama_dated(None), **LLAMA),
    Shape("llama 3 at a date", LLAMA_DATED, llama_dated("26 Jul 2024"), **LLAMA,
          options={"date_string": "26 Jul 2024"}),
    Shape("gemma", GEMMA, gemma, eos="<eos>", bos="<bos>", special=("<start_of_turn>", "<end_of_turn>")),
    Shape(
        "phi 3", PHI_3, phi_3, eos="<|endoftext|>", takes_space=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    ),
    Shape("zephyr", ZEPHYR, zephyr),
    Shape("mistral", MISTRAL, mistral, bos="<s>", special=("[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]")),
    Shape("qwen 3", QWEN_3, qwen_3(True), eos="<|im_end|>", special=IM),
    Shape("qwen 3 told not to think", QWEN_3, qwen_3(False), eos="<|im_end|>", special=IM,
          options={"enable_thinking": False}),
    Shape("deepseek r1", DEEPSEEK_R1, deepseek_r1, bos="<s>", special=("<|User|>", "<|Assistant|>")),
    Shape("forgets thoughts", FORGETS, forgets, bos="<s>", special=("<|User|>", "<|Assistant|>")),
    Shape("marked thinking", MARKED_THINKING, marked_thinking, eos="<|im_end|>", special=IM),
    Shape("no prompt", NO_PROMPT, no_prompt),
    Shape("merges", MERGES, merges),
    Shape("bare", BARE, bare, unended=True),
]  # fmt: skip
