"""Answer in a conversation: instruction tuning on messages, several turns, system and tool turns."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from luthier.data.template import encode_chat, encode_prompt, turn_terminators
from luthier.models.backbone import Backbone
from luthier.options import Options as Section
from luthier.tasks.common import Ask, Encoder
from luthier.tasks.language import LanguageTask, cut
from luthier.types import INLINE, Example, Features

DEFAULTS = {"batch_size": 16, "overlong": "error", "epochs": 3.0}


class Options(Section):
    train_on: Literal["all", "last"] = Field("all", description="the assistant turns that are supervised")


class Task(LanguageTask):
    formats = ("messages", "sharegpt", "alpaca", "prompt-completion", "question-answer")

    def __init__(self, options: Options):
        self.train_on = options.train_on

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        def encode(example: Example) -> list[Features]:
            assert example.messages is not None
            encoded = encode_chat(
                backbone.tokenizer,
                example.messages,
                tools=example.tools,
                train_on=self.train_on,
                where=f"{example.source}:messages",
            )
            features: Features = {
                "input_ids": encoded.input_ids,
                "supervised": encoded.supervised,
                "turn_ends": encoded.turn_ends,
                "weight": example.weight,
            }
            return [cut(features, limit, overlong)]

        return encode

    def parse(self, given: Any) -> Example:
        if isinstance(given, list):
            return Example(INLINE, messages=given)
        if isinstance(given, dict) and "messages" in given:
            return Example(INLINE, messages=given["messages"], tools=given.get("tools"))
        text = given.get("prompt", given.get("text", "")) if isinstance(given, dict) else str(given)
        return Example(INLINE, messages=[{"role": "user", "content": text}])

    def prompt(self, ask: Ask, example: Example) -> list[int]:
        messages = example.messages or []
        while messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        return encode_prompt(ask.backbone.tokenizer, messages, tools=example.tools)

    def terminators(self, backbone: Backbone) -> list[int]:
        return sorted({*super().terminators(backbone), *turn_terminators(backbone.tokenizer)})

    def shown(self, example: Example) -> tuple[str, str]:
        *before, last = example.messages or [{"role": "assistant", "content": ""}]
        lines = [f"{turn['role']}: {turn.get('content') or ''}" for turn in before]
        return "\n".join(lines), str(last.get("content") or "")
