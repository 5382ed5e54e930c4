"""Whether a chat template writes what a row says: no turn left out, no answer shortened, no call of a tool forgotten.

A template is a program that may pass over what it does not know: a system turn, a tool's result, the thoughts of an
answer. The model would then learn from another conversation than the row holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.data.text.parts import EACH
from luthier.data.text.turns import MARKS
from luthier.types import Finding, Message

SHOWN = 60


def left_out(
    text: str, messages: Sequence[Message], taught: Mapping[int, str], tools: Sequence[dict[str, Any]] | None,
    where: str,
) -> list[Finding]:  # fmt: skip
    """What of a conversation its rendering ``text`` lacks (``template.drops``); white space makes no difference.

    ``taught`` has the supervised text of each assistant turn that is supervised, by the turn's index. Assistant turns
    that are not may be rewritten: generation sees them as the template writes them.
    """
    whole = _squeezed(text)
    findings = []
    for index, message in enumerate(messages):
        at = f"{where}[{index}]"
        if message["role"] == "assistant" and index not in taught:
            continue
        there = _squeezed(taught[index]) if index in taught else whole
        content = message.get("content")
        if isinstance(content, str) and not all(part in MARKS or _stands(part, there) for part in EACH.split(content)):
            findings.append(_finding(at, f"the {message['role']}'s text {_short(content)} as it stands"))
        for call in message.get("tool_calls") or [] if index in taught else []:
            called = call.get("function", call)
            if _squeezed(str(called.get("name"))) not in there:
                findings.append(_finding(at, f"the call of the tool {called.get('name')!r}"))
    described = [tool.get("function", tool) for tool in tools or []]
    missing = [
        str(tool.get("name"))
        for tool in described
        if not all(_stands(str(tool.get(key) or ""), whole) for key in ("name", "description"))
    ]
    if missing:
        findings.append(_finding(where, f"the tools that may be called ({', '.join(missing[:5])})"))
    return findings


def _finding(at: str, what: str) -> Finding:
    mend = "change the row, or set a `model.template` that writes it"
    why = "the model would learn from another conversation than the row holds"
    return Finding("template.drops", at, f"the chat template does not write {what}", mend, why)


def _stands(content: str, squeezed: str) -> bool:
    """As it is, or as a string of JSON, in which quotes and line ends are escaped."""
    if _squeezed(content) in squeezed:
        return True
    return any(_squeezed(json.dumps(content, ensure_ascii=a)[1:-1]) in squeezed for a in (False, True))


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _short(content: str) -> str:
    return repr(content if len(content) <= SHOWN else f"{content[:SHOWN]}…")
