"""The calls that an assistant makes of tools: read, matched with their results, and written as a template wants them.

A call is ``{"type": "function", "function": {"name": ..., "arguments": {...}}}``, as OpenAI's messages have it, or the
inner object alone. Arguments may be an object or the same as JSON; they are kept as an object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from luthier.data.files.reading import kind
from luthier.types import Message

Report = Callable[[str, str, str, str], None]
Call = dict[str, Any]


def read_calls(calls: Any, at: str, report: Report, role: str | None = "assistant") -> list[Call]:
    """Calls with their arguments as objects; what is wrong is reported under ``at[index]``."""
    if role != "assistant":
        report("data.tool-call", at, f"only the assistant calls tools, this is a turn of the {role}", "")
        return []
    if not isinstance(calls, list):
        report("data.type", at, f"must be a list of calls, this is {kind(calls)}", "")
        return []
    return [read for index, call in enumerate(calls) if (read := _call(call, f"{at}[{index}]", report))]


def call_of_text(text: Any, at: str, report: Report) -> list[Call]:
    """The calls of a turn that is one, written as JSON: an object or a list of them (ShareGPT's function_call)."""
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except ValueError as error:
        report("data.tool-call", at, f"is not valid JSON ({error})", "")
        return []
    calls = found if isinstance(found, list) else [found]
    bare = [isinstance(call, dict) and "function" not in call for call in calls]
    wrapped = [{"type": "function", "function": c} if b else c for c, b in zip(calls, bare, strict=True)]
    return read_calls(wrapped, at, report)


def _call(call: Any, at: str, report: Report) -> Call | None:
    if not isinstance(call, dict):
        report("data.type", at, f"a call must be an object, this is {kind(call)}", "")
        return None
    inner = call.get("function", call)
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"].strip():
        report("data.tool-call", at, "does not name the tool that it calls", "")
        return None
    arguments = {} if inner.get("arguments") is None else inner["arguments"]
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            report("data.tool-call", f"{at}.arguments", f"is not valid JSON ({error})", "")
            return None
    if not isinstance(arguments, dict):
        report("data.tool-call", f"{at}.arguments", f"must be an object, this is {kind(arguments)}", "")
        return None
    read = {**inner, "arguments": arguments}
    return {**call, "function": read} if "function" in call else read


def unanswered(turns: Sequence[Message]) -> Iterator[tuple[int, str]]:
    """(index, what is wrong) of each tool's turn that no call of the assistant asked for.

    A call may also be written into the assistant's text, which then holds a brace.
    """
    open_calls: list[Call] | None = None
    for index, turn in enumerate(turns):
        if turn["role"] != "tool":
            written = "{" in str(turn.get("content") or "")
            calls = turn.get("tool_calls")
            open_calls = list(calls) if calls else None if written and turn["role"] == "assistant" else []
        elif open_calls is None:
            continue
        elif not open_calls:
            yield index, "this tool's turn answers no call of the assistant"
        else:
            ids = [call.get("id") for call in open_calls]
            asked = turn.get("tool_call_id")
            if asked is not None and any(ids) and asked not in ids:
                yield index, f"the assistant made no call {asked!r}; those still open are {', '.join(map(str, ids))}"
                continue
            open_calls.pop(ids.index(asked) if asked in ids else 0)


def with_object_arguments(messages: Sequence[Message]) -> list[Message]:
    """The same turns with the arguments of each call as an object, which most templates write as JSON themselves."""
    return [
        {**turn, "tool_calls": read_calls(turn["tool_calls"], "", _ignore) or turn["tool_calls"]}
        if turn.get("tool_calls")
        else turn
        for turn in messages
    ]


def _ignore(code: str, at: str, what: str, mend: str) -> None:
    pass


def with_text_arguments(messages: Sequence[Message]) -> list[Message]:
    """The same turns with the arguments of each call as JSON: some templates join them to a text."""
    return [
        {**turn, "tool_calls": [_as_text(call) for call in turn["tool_calls"]]} if turn.get("tool_calls") else turn
        for turn in messages
    ]


def written_as_python(text: str, messages: Sequence[Message]) -> bool:
    """Whether a rendering holds arguments as Python writes a dictionary, which is no JSON."""
    return any(
        str(arguments) in text
        for turn in messages
        for call in turn.get("tool_calls") or []
        if (arguments := call.get("function", call).get("arguments")) and isinstance(arguments, dict)
    )


def _as_text(call: Call) -> Call:
    inner = call.get("function", call)
    given = inner.get("arguments")
    written = {**inner, "arguments": given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)}
    return {**call, "function": written} if "function" in call else written
