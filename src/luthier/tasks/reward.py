"""Learn from human feedback what is better: a score for an answer to a prompt, as a reward for other models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from luthier.data.text.turns import with_system
from luthier.evaluate import preference, stepwise
from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.models.vision.illustrated import Illustrated
from luthier.options import Options as Section
from luthier.tasks.answers import (
    encode_answer,
    encode_whole,
    pair_rows,
    parsed_row,
    shown_prompt,
    shown_turns,
    sides_of,
    told_rows,
)
from luthier.tasks.common import Ask, Encoder
from luthier.tasks.shown_turns import asked_messages
from luthier.types import INLINE, Example, Features, Finding, Message, Refused

DEFAULTS = {"batch_size": 16, "overlong": "error", "epochs": 1.0}
ANSWERS = ("completion", "response", "answer", "output")


class Options(Section):
    system: str | None = Field(None, min_length=1, description="a system turn for prompts that have none")


class Task:
    formats = ("stepwise", "preference", "judged-pair", "rated-answers")
    writes_from_source = False
    splits = False
    sample_options: dict[str, Any] = {}
    labels: tuple[str, ...] = ()
    metric = "preference_accuracy"
    metrics: dict[str, bool] = {"loss": False, **preference.SCORED, **stepwise.METRICS}

    def __init__(self, options: Options):
        self.system = options.system
        self.stepwise = False

    def objective(self) -> str:
        return "stepwise" if self.stepwise else "bradley_terry"

    def pieces(self, examples: Sequence[Example]) -> list[Example]:
        return list(examples)

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        self.stepwise = any(example.stepwise for example in train)
        if self.stepwise:
            self.metric = "step_accuracy"
            return _told_steps(train)
        return told_rows(train, evaluation)

    def unknown(self, examples: Sequence[Example]) -> list[Finding]:
        return []

    def config(self) -> dict[str, Any]:
        named = {"id2label": {0: "reward"}, "label2id": {"reward": 0}}
        return {"num_labels": 1, **named, "problem_type": "regression"}

    def from_config(self, config: Any) -> None:
        pass

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        """A row is prompt and answer, for each answer that it has. A decoder reads them as one that writes would; an
        encoder as a text of its own, between the tokens that open and close one. Raises Refused where the model reads
        one prompt and writes one answer."""
        if isinstance(backbone, Illustrated):
            backbone.check_conversations()
        cut = limit if overlong == "truncate" else None
        encode_one = encode_answer if backbone.causal and not backbone.encoder_decoder else encode_whole

        def encode(example: Example) -> list[Features]:
            example = replace(example, messages=with_system(example.messages or [], self.system))
            return [row | {"turn_ends": []} for row in pair_rows(encode_one, backbone, example, cut)]

        return encode

    def plain(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, float]:
        if outputs and "steps" in outputs[0]:
            return stepwise.plain(outputs)
        return preference.plain(outputs, preference.SCORED)

    def with_intervals(self, outputs: list[Any], rows: Sequence[Features]) -> Metrics:
        if outputs and "steps" in outputs[0]:
            return stepwise.with_intervals(outputs)
        return preference.with_intervals(outputs, preference.SCORED)

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        return {}

    def parse(self, given: Any) -> Example:
        """Turns that end in the assistant's; a row with `prompt` and an answer, or its `steps`; or one with two
        answers."""
        if isinstance(given, dict) and (row := parsed_row(given, self.formats)) is not None:
            return row
        if isinstance(given, dict) and isinstance(given.get("steps"), list):
            given = {**given, "labels": [1] * len(given["steps"])}
            if (row := parsed_row(given, ("stepwise",))) is not None:
                return replace(row, stepwise=[(text, None) for text, _ in row.stepwise or []])
        turns = given.get("messages", given.get("prompt")) if isinstance(given, dict) else given
        if isinstance(turns, str) and isinstance(given, dict):
            turns = [{"role": "user", "content": turns}]
        said = next((given[name] for name in ANSWERS if name in given), None) if isinstance(given, dict) else None
        if isinstance(turns, list) and isinstance(said, str):
            turns = [*turns, {"role": "assistant", "content": said}]
        if isinstance(turns, list) and isinstance(given, dict):
            shown = asked_messages(turns, given)
            if _answered(shown.messages or []):
                *asked, last = shown.messages or []
                return replace(shown, messages=asked, chosen=[last], tools=None)
        if not isinstance(turns, list) or not _answered(turns):
            what = "there is no answer to score"
            mend = 'give turns that end in the assistant\'s, or a row such as {"prompt": "Hi", "completion": "Hello!"}'
            raise Refused(Finding("run.score", "input", what, mend))
        return Example(INLINE, messages=turns[:-1], chosen=turns[-1:])

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """``score`` of an answer; of a pair the scores of ``chosen`` and ``rejected``, and how ``probable`` it is that
        the chosen one is preferred: σ of their difference. By steps, how probable it is that each is right (``steps``)
        and that all are (``score``)."""
        return [_told(output) for output in ask.outputs([replace(example, worse=[]) for example in examples])]

    def terminators(self, backbone: Backbone) -> list[int]:
        return []

    def shown(self, example: Example) -> tuple[str, str]:
        if example.stepwise:
            marks = [f"{text}  [{_mark(label)}]" for text, label in example.stepwise]
            return f"{shown_prompt(example.messages or [])}\n" + "\n".join(marks), _found(
                [1.0 if label is None else label for _, label in example.stepwise]
            )
        answers = "\n".join(f"{side}: {shown_turns(turns)}" for side, turns in sides_of(example))
        return f"{shown_prompt(example.messages or [])}\n{answers}", "chosen" if example.rejected else ""

    def shown_answer(self, answer: dict[str, Any]) -> str:
        if "steps" in answer:
            return f"{self.decided(answer)} ({' '.join(f'{step:.2f}' for step in answer['steps'])})"
        if "score" in answer:
            return f"{answer['score']:.3f}"
        return f"{self.decided(answer)} ({answer['chosen']:.3f} and {answer['rejected']:.3f})"

    def decided(self, answer: dict[str, Any]) -> str:
        if "steps" in answer:
            return _found(answer["steps"])
        if "score" in answer:
            return f"{answer['score']:.3f}"
        return "chosen" if answer["chosen"] > answer["rejected"] else "rejected"

    def right(self, example: Example, answer: dict[str, Any]) -> bool | None:
        if "steps" in answer and example.stepwise:
            labels = [1.0 if label is None else label for _, label in example.stepwise]
            return stepwise.first_wrong(answer["steps"]) == stepwise.first_wrong(labels)
        return None if "score" in answer else answer["chosen"] > answer["rejected"]

    def confused(self, outputs: Sequence[Any], rows: Sequence[Features]) -> list[tuple[str, str]] | None:
        return None


def _answered(turns: list[Message]) -> bool:
    return bool(turns) and all(isinstance(turn, dict) for turn in turns) and turns[-1].get("role") == "assistant"


def _told_steps(examples: Sequence[Example]) -> list[Finding]:
    """How many steps are judged; and rows of other kinds, which are not learned beside them."""
    findings = []
    if other := sum(not example.stepwise for example in examples):
        what = f"{len(examples) - other} rows have steps with labels and {other} two answers"
        findings.append(Finding("data.mixed-formats", "data", what, "train on them one at a time"))
    labels = [label for example in examples for _, label in example.stepwise or []]
    judged = [label for label in labels if label is not None]
    what = (
        f"{len(judged)} of {len(labels)} steps are judged, {sum(label >= stepwise.HALF for label in judged)} as right"
    )
    return [*findings, Finding("data.steps-judged", "data", what, severity="note")]


def _mark(label: float | None) -> str:
    return "?" if label is None else f"{label:g}"


def _found(steps: Sequence[float]) -> str:
    """The first step that is wrong."""
    at = stepwise.first_wrong(steps)
    return "right" if at is None else f"wrong at step {at + 1}"


def _told(output: dict[str, Any]) -> dict[str, Any]:
    if "steps" in output:
        return {"score": output["score"], "steps": output["steps"]}
    if "score" in output:
        return output
    apart = output["chosen"] - output["rejected"]
    probable = 1 / (1 + math.exp(-apart)) if apart > -700 else 0.0
    return {"chosen": output["chosen"], "rejected": output["rejected"], "probable": probable}
