"""The turns of a conversation: read from a row's list, and checked for roles, contents and order."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from luthier.data.files.reading import kind
from luthier.data.text.tool_calls import call_of_text, read_calls, unanswered
from luthier.types import Message

Report = Callable[[str, str, str, str], None]
"""(code, field, what, mend) → noted as a finding of the row."""

ROLES = {role: role for role in ("system", "user", "assistant", "tool")}
SHAREGPT_ROLES = ROLES | {"human": "user", "gpt": "assistant", "function": "tool", "observation": "tool"}
SHAREGPT_ROLES |= {"function_call": "assistant"}
KINDRED = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant"}
KINDRED |= {"developer": "system", "function": "tool", "observation": "tool", "chatgpt": "assistant"}
MARK, SOUND_MARK = "<image>", "<|audio|>"
"""Where a picture or a sound stands in a turn's text, whatever the model's own word for that is."""
MARKS = {MARK: "image", SOUND_MARK: "audio"}
"""What kind of part each stands for."""
PARTS = {kind + ending: mark for mark, kind in MARKS.items() for ending in ("", "_url")}


def marks(turns: Sequence[Message], mark: str = MARK) -> int:
    """How many pictures, or what else the ``mark`` stands for, their texts name."""
    return sum(str(turn.get("content") or "").count(mark) for turn in turns)


def mark_first(turns: Sequence[Message], count: int, mark: str = MARK) -> None:
    """Let as many stand before the first question, where there is one."""
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    if first is not None:
        first["content"] = mark * count + "\n" + str(first["content"])


def before_answer(messages: Sequence[Message] | None) -> list[Message]:
    """The turns up to the answer that comes last, all of them where none does: what is asked."""
    turns = list(messages or [])
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return turns


def has_system(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[0]["role"] == "system"


def with_system(messages: list[Message], system: str | None) -> list[Message]:
    """With a system turn before them where they have none and one is wanted."""
    return messages if system is None or has_system(messages) else [{"role": "system", "content": system}, *messages]


def read_turns(
    value: Any, at: str, report: Report, roles: Mapping[str, str] = ROLES, pictures: list[Any] | None = None
) -> list[Message]:
    """Turns written as role and content, or as from and value, with the roles named in ours (``roles``).

    What else a turn holds (``tool_calls``, ``name``) is kept. Problems are reported under ``at[index].key``; the
    turns that have none are returned. A part that is a picture or a sound becomes a mark in the text; this mark, its
    place and what it names are added to ``pictures``, None where it names nothing.
    """
    if not isinstance(value, list):
        report("data.type", at, f"must be a list of turns, this is {kind(value)}", "")
        return []
    if not value:
        report("data.empty-target", at, "has no turn", "")
    turns = [_turn(turn, f"{at}[{index}]", report, roles, pictures) for index, turn in enumerate(value)]
    return [turn for turn in turns if turn is not None]


def _turn(
    turn: Any, at: str, report: Report, roles: Mapping[str, str], pictures: list[Any] | None
) -> Message | None:  # fmt: skip
    if not isinstance(turn, dict):
        report("data.type", at, f"a turn must be an object, this is {kind(turn)}", "")
        return None
    who, says = "from" if "from" in turn else "role", "value" if "value" in turn else "content"
    role = _role(turn.get(who), f"{at}.{who}", report, roles)
    if role == "assistant" and turn.get(who) == "function_call":
        return {"role": role, "content": None, "tool_calls": call_of_text(turn.get(says), f"{at}.{says}", report)}
    says_what = _joined(turn.get(says), f"{at}.{says}", report, pictures)
    if says_what is _BAD:
        return None
    content = _content(says_what, f"{at}.{says}", report, role, bool(turn.get("tool_calls")))
    # None stands for "not there": tables fill a key that only some turns have.
    rest = {key: part for key, part in turn.items() if key not in (who, says) and part is not None}
    if rest.get("tool_calls"):
        rest["tool_calls"] = read_calls(rest["tool_calls"], f"{at}.tool_calls", report, role)
    return {"role": role, "content": content, **rest} if role else None


def _role(name: Any, at: str, report: Report, roles: Mapping[str, str]) -> str | None:
    if isinstance(name, str) and name in roles:
        return roles[name]
    if not isinstance(name, str):
        report("data.type", at, f"must be the name of a role, this is {kind(name)}", "")
        return None
    near = difflib.get_close_matches(name.lower(), roles, n=1)
    guess = KINDRED.get(name.lower()) or (near[0] if near else None)
    mend = f"did you mean {guess!r}?" if guess else ""
    report("data.role-unknown", at, f"{name!r} is not a role; the roles are {', '.join(roles)}", mend)
    return None


_BAD: Any = object()


def _joined(content: Any, at: str, report: Report, pictures: list[Any] | None) -> Any:
    """Parts as one text, with a mark for each picture; what is no list of parts as it is."""
    if not (isinstance(content, list) and all(isinstance(part, dict) for part in content)):
        return content
    text = ""
    for part in content:
        kind_of = str(part.get("type"))
        if kind_of == "text":
            text += str(part.get("text", ""))
        elif kind_of in PARTS and pictures is not None:
            mark = PARTS[kind_of]
            keys = (MARKS[mark], "path", "url", f"{MARKS[mark]}_url")
            named = next((part[key] for key in keys if part.get(key) is not None), None)
            named = named.get("url") if kind_of.endswith("_url") and isinstance(named, dict) else named
            pictures.append((mark, at, named))
            text += mark
        else:
            read = "text is read here, and no pictures" if pictures is None else "text, pictures and sounds are read"
            report("data.type", at, f"has a part of type {kind_of}: {read}", "")
            return _BAD
    return text


def _content(content: Any, at: str, report: Report, role: str | None, calls_tools: bool) -> str | None:
    if content is None:
        if not (role == "assistant" and calls_tools):
            report("data.null-content", at, "is null, which only a turn with tool_calls may be", "")
        return None
    if not isinstance(content, str):
        report("data.type", at, f"must be text, this is {kind(content)}", "")
        return None
    if role == "assistant" and not content.strip() and not calls_tools:
        report("data.empty-target", at, "the assistant's turn is empty: the model would learn to say nothing", "")
    return content


def check_order(turns: list[Message], at: str, report: Report) -> None:
    """After an optional system turn: the user first, no speaker twice in a row, the assistant last."""
    roles = [turn["role"] for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    problem = ""
    if not spoken or spoken[0] != "user":
        problem = f"the first turn{' after the system turn' if spoken != roles else ''} must be the user's"
    elif twice := next((b for a, b in pairwise(spoken) if a == b and b in ("user", "assistant")), None):
        problem = f"two {twice} turns stand in a row"
    elif any(b == "tool" and a not in ("assistant", "tool") for a, b in pairwise(spoken)):
        problem = "a tool's turn must follow the assistant's"
    elif spoken[-1] != "assistant":
        problem = "the last turn must be the assistant's: there is no answer to learn"
    if problem:
        report("data.role-order", at, f"{problem} (roles: {', '.join(roles) or 'none'})", "")
        return
    for index, what in unanswered(turns):
        report("data.tool-call", f"{at}[{index}]", what, "")
