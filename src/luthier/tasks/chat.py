"""Answer in a conversation: instruction tuning on messages, several turns, system and tool turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from luthier.data.text.dialogue import Dialogue
from luthier.data.text.template import encode_prompt, turn_terminators
from luthier.data.text.turns import before_answer, has_system, with_system
from luthier.models.backbone import Backbone
from luthier.models.vision.illustrated import Illustrated
from luthier.options import Options as Section
from luthier.tasks.common import Ask, Encoder
from luthier.tasks.language import LanguageTask, cut, features_of
from luthier.tasks.shown_turns import asked_messages, shown_prompt, shown_row
from luthier.types import Example, Features, Finding, Prompt

DEFAULTS = {"batch_size": 16, "overlong": "error", "epochs": 3.0}


class Options(Section):
    train_on: Literal["all", "last"] = Field("all", description="the assistant turns that are supervised")
    system: str | None = Field(None, min_length=1, description="a system turn for conversations that have none")


class Task(LanguageTask):
    formats: tuple[str, ...] = (
        "messages",
        "sharegpt",
        "alpaca",
        "self-instruct",
        "prompt-completion",
        "question-answer",
    )
    splits = True

    def __init__(self, options: Options):
        self.train_on: Literal["all", "last"] = options.train_on
        self.system = options.system

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        rows = [example.messages or [] for example in (*train, *evaluation)]
        without = sum(not has_system(messages) for messages in rows)
        if self.system is None or not without:
            return []
        what = f"`chat.system` is the system turn of the {without} of {len(rows)} rows that have none of their own"
        return [Finding("data.system", "chat.system", what, severity="note")]

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        """Raises Refused where the model reads one prompt and writes one answer."""
        if isinstance(backbone, Illustrated):
            backbone.check_conversations()

        def encode(example: Example) -> list[Features]:
            where = f"{example.source}:messages"
            messages = with_system(example.messages or [], self.system)
            if example.images or example.sounds:
                return [shown_row(backbone, example, messages, self.train_on, limit, overlong)]
            dialogue = Dialogue(backbone.tokenizer, messages, example.tools, self.train_on, limit, where)
            made = dialogue.rows(overlong)
            note: dict[str, Any] = {"rewritten": True} if made.rewritten else {}
            if made.whole is not None:
                note["whole"] = made.whole
            parts = [(row, note) for row in made.rows] + [(row, note | {"turn": at}) for at, row in made.too_long]
            return [cut(features_of(row, example), limit, overlong) | {"note": dict(said)} for row, said in parts]

        return encode

    def parse(self, given: Any) -> Example:
        row = {"messages": given} if isinstance(given, list) else given
        if isinstance(row, dict) and "messages" in row:
            return asked_messages(row["messages"], row)
        if isinstance(row, dict) and isinstance(row.get("prompt"), list):
            return asked_messages(row["prompt"], row)
        return asked_messages([{"role": "user", "content": asked_of(given)}], row if isinstance(row, dict) else {})

    def prompt(self, ask: Ask, example: Example) -> Prompt:
        messages = with_system(before_answer(example.messages), self.system)
        ids = encode_prompt(ask.backbone.tokenizer, messages, tools=example.tools)
        return shown_prompt(ask.backbone, example, messages, ids) if example.images or example.sounds else ids

    def taught(self, example: Example, text: str) -> Example | None:
        """Its last turn is the text; what the assistant said before stays."""
        asked = before_answer(example.messages)
        return replace(example, messages=[*asked, {"role": "assistant", "content": text}])

    def terminators(self, backbone: Backbone) -> list[int]:
        return sorted({*super().terminators(backbone), *turn_terminators(backbone.tokenizer)})

    def shown(self, example: Example) -> tuple[str, str]:
        *before, last = example.messages or [{"role": "assistant", "content": ""}]
        if last["role"] != "assistant":  # a prompt
            before, last = [*before, last], {}
        lines = [f"{turn['role']}: {turn.get('content') or ''}" for turn in before]
        return "\n".join(lines), str(last.get("content") or "")


def asked_of(given: Any) -> str:
    """What a row without turns asks, in the same words as when it is learned."""
    if not isinstance(given, dict):
        return str(given)
    for first, *more in (("instruction", "input", "context"), ("context", "question")):
        if first in given and (first == "instruction" or "question" in given):
            parts = [str(given.get(key) or "") for key in (first, *more)]
            return "\n\n".join(part for part in parts if part.strip())
    return str(given.get("prompt", given.get("question", given.get("text", ""))))
