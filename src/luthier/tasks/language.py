"""What the tasks that write text share: metrics on supervised tokens, and answers by generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.data.text.template import Encoded
from luthier.evaluate import language
from luthier.evaluate.generate import generate, terminators
from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.tasks.common import Ask
from luthier.types import Example, Features, Finding, Prompt


class LanguageTask:
    metric = "loss"
    metrics = language.METRICS
    sample_options = {"max_new_tokens": 64}
    labels: tuple[str, ...] = ()
    writes_from_source = False
    """Whether a row has a source and a target apart, which an encoder-decoder can learn from."""
    splits = False

    def pieces(self, examples: Sequence[Example]) -> list[Example]:
        return list(examples)

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        return []

    def unknown(self, examples: Sequence[Example]) -> list[Finding]:
        return []

    def objective(self) -> str:
        return "next_token"

    def config(self) -> dict[str, Any]:
        return {}

    def from_config(self, config: Any) -> None:
        pass

    def plain(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, float]:
        return language.plain(outputs)

    def with_intervals(self, outputs: list[Any], rows: Sequence[Features]) -> Metrics:
        return language.with_intervals(outputs)

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        return {}

    def prompt(self, ask: Ask, example: Example) -> Prompt:
        raise NotImplementedError

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """Generated text. Options: max_new_tokens (256), num_beams (1: greedy), temperature, seed."""
        prompts = [self.prompt(ask, example) for example in examples]
        return self.write(ask, prompts, **{"max_new_tokens": 256, **options})

    def write(
        self, ask: Ask, prompts: Sequence[Prompt], *, told: bool = False, **settings: Any
    ) -> list[dict[str, Any]]:
        """What follows each prompt, as text; with ``told`` also whether it came to its end by itself."""
        grown = generate(ask.backbone, prompts, stop=self.terminators(ask.backbone), **settings)
        texts = [self.decoded(ask.backbone, *pair) for pair in zip(prompts, grown, strict=True)]
        if not told:
            return [{"text": text} for text in texts]
        most = settings["max_new_tokens"]
        return [{"text": text, "finished": len(ids) < most} for text, ids in zip(texts, grown, strict=True)]

    def decoded(self, backbone: Backbone, prompt: Prompt, ids: list[int]) -> str:
        """The text of the ids that were written after a prompt."""
        return str(backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def taught(self, example: Example, text: str) -> Example | None:
        """The example with ``text`` as what is to be written; None where its rows have no such place."""
        return None

    def terminators(self, backbone: Backbone) -> list[int]:
        """The ids of which one must end an answer."""
        return terminators(backbone)

    def shown_answer(self, answer: dict[str, Any]) -> str:
        return answer["text"]

    def decided(self, answer: dict[str, Any]) -> str:
        return answer["text"]

    def right(self, example: Example, answer: dict[str, Any]) -> bool | None:
        return None

    def confused(self, outputs: Sequence[Any], rows: Sequence[Features]) -> list[tuple[str, str]] | None:
        return None


def features_of(encoded: Encoded, example: Example) -> Features:
    """A row of text with its supervised tokens as features."""
    return {
        "input_ids": encoded.input_ids,
        "supervised": encoded.supervised,
        "turn_ends": encoded.turn_ends,
        "weight": example.weight,
    }


def cut(features: Features, limit: int, overlong: str) -> Features:
    """Truncate a row to ``limit`` tokens where the policy says so; ``full_length`` keeps what it was."""
    full = len(features["input_ids"])
    if full > limit and overlong == "truncate":
        features |= {"input_ids": features["input_ids"][:limit], "supervised": features["supervised"][:limit]}
    return features | {"full_length": full}
