"""Dialogues written as one text, as in HH-RLHF (Bai et al. 2022, arXiv 2204.05862).

\\n\\nHuman: Hi\\n\\nAssistant: Hello! What is it?\\n\\nHuman: ...
"""

from __future__ import annotations

import re

from luthier.types import Message

SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def is_transcript(text: str) -> bool:
    """Whether a text is a dialogue: it begins with `Human:` after a blank line, or the assistant's turn follows."""
    return text.startswith("\n\nHuman:") or (text.startswith("Human:") and "\n\nAssistant:" in text)


def read_transcript(text: str) -> list[Message]:
    """Its turns, without white space around them. A speaker who goes on after a blank line has one turn, not two."""
    found = list(TURN.finditer(text))
    turns: list[Message] = []
    for mark, after in zip(found, [*found[1:], None], strict=True):
        said = text[mark.end() : after.start() if after else len(text)].strip()
        role = SPEAKERS[mark[1]]
        if turns and turns[-1]["role"] == role:
            said = "\n\n".join(part for part in (turns.pop()["content"], said) if part)
        turns.append({"role": role, "content": said})
    return turns


def apart(first: list[Message], second: list[Message]) -> int:
    """How many turns two dialogues have in common before the assistant's answers that tell them apart.

    Of ``[u a u x]`` and ``[u a u y]`` 3. Where one is the beginning of the other, its last answer is what differs.
    """
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    if same in (len(first), len(second)):
        same = max(0, min(len(first), len(second)) - 1)
        while same and first[same]["role"] != "assistant":
            same -= 1
    return same
