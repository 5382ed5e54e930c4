"""Texts with marks of pictures and sounds, as a chat template wants them: as they are, or as lists of parts.

    "<image>\\nWhat is it?"   →   [{"type": "image"}, {"type": "text", "text": "\\nWhat is it?"}]

Which, is asked of the template: it must write a text that it is given in parts, and not the parts as Python would.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from luthier.data.text.turns import MARKS
from luthier.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EACH = re.compile(f"({'|'.join(map(re.escape, MARKS))})")
PROBE = "zxqpartqxz"


def in_parts(tokenizer: PreTrainedTokenizerBase, turns: list[Message]) -> list[Message]:
    """The turns as the template takes them: in parts those with a mark, or all where it takes nothing else."""
    takes = _takes(str(tokenizer.chat_template or ""))
    if takes == "texts":
        return turns
    return [
        turn | {"content": _parts(turn["content"])}
        if isinstance(turn.get("content"), str) and (takes == "parts" or any(mark in turn["content"] for mark in MARKS))
        else turn
        for turn in turns
    ]


def _parts(text: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for part in re.split(EACH, text):
        if part:
            made.append({"type": MARKS[part]} if part in MARKS else {"type": "text", "text": part})
    return made or [{"type": "text", "text": ""}]


@lru_cache(maxsize=16)
def _takes(template: str) -> str:
    """texts, parts, or both."""
    if "type" not in template:
        return "texts"
    shown = _shown(template, [{"type": "text", "text": PROBE}])
    if PROBE not in shown or "{'type'" in shown:
        return "texts"
    return "both" if PROBE in _shown(template, PROBE) else "parts"


def _shown(template: str, content: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    for before in ([], [{"role": "system", "content": content}]):
        try:
            turns = [*before, {"role": "user", "content": content}]
            made: Any = render_jinja_template(conversations=[turns], chat_template=template)
        except Exception:
            continue
        return str(made[0][0])
    return ""
