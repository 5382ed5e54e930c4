"""Learn from answers of the model's own, by rewards that can be checked: a right result, a form, a function of yours.

What is tuned is a model that writes: it answers as after `chat`. Its rows are prompts with what is expected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, field_validator

from luthier.data.formats.steps import SEPARATOR, step_ends, step_texts
from luthier.data.text.template import encode_prompt
from luthier.data.text.turns import before_answer, with_system
from luthier.evaluate.intervals import Metrics, mean_interval
from luthier.evaluate.rewards import (
    KEY,
    Answer,
    Function,
    Reward,
    Rewarded,
    in_columns,
    judge,
    load_function,
    served,
    verifier,
)
from luthier.evaluate.tested import INSTRUCTION, passes
from luthier.evaluate.verifiers import VERIFIERS, last_number
from luthier.models.backbone import Backbone
from luthier.options import Options as Section
from luthier.sandbox import unavailable
from luthier.tasks import answers, chat
from luthier.tasks.common import Ask, Encoder
from luthier.tasks.shown_turns import shown_prompt
from luthier.types import Example, Features, Finding, Message, Refused

DEFAULTS = {
    "batch_size": 8, "overlong": "error", "epochs": 1.0, "learning_rate_factor": 0.5, "schedule": "constant",
    "metric": "reward",
}  # fmt: skip
SETTINGS = {
    "format": "a pattern", "after": "a marker", "function": "file.py:name or package.module:name",
    "model": "a run of `reward`", "server": "http://...",
}  # fmt: skip

KINDS = (*VERIFIERS, "tests", "function", "model", "server")
STEPS = ("each", "mean", "min")


class Options(Section):
    rewards: list[str | dict[str, str | float]] | None = Field(
        None,
        min_length=1,
        description="exact, contains, number, tests, {format: pattern}, {after: marker}, {function: file.py:name}, "
        "{model: a run of `reward`}, {server: url}; each may have a weight; "
        "default: number where all that is expected are numbers, else exact",
    )
    separator: str = Field(SEPARATOR, min_length=1, description="what stands between two steps of an answer")
    system: str | None = Field(None, min_length=1, description="a system turn for prompts that have none")
    _base: Path = PrivateAttr(Path())

    @field_validator("rewards")
    @classmethod
    def _known(cls, given: list[str | dict[str, str | float]] | None) -> Any:
        for one in given or []:
            _parsed(one)
        return given

    def beside(self, base: Path) -> None:
        self._base = base


def _parsed(given: str | dict[str, str | float]) -> tuple[str, str, float, str]:
    """(kind, setting, weight, what becomes of steps) of a reward as it is written. Raises ValueError for none."""
    entry = {given: ""} if isinstance(given, str) else dict(given)
    weight, steps = entry.pop("weight", 1.0), entry.pop("steps", STEPS[0])
    known = ", ".join(KINDS)
    if len(entry) != 1:
        raise ValueError(f"a reward is one of {known}, and its weight; this is {given!r}")
    ((kind, setting),) = entry.items()
    if kind == "name" and isinstance(setting, str):
        kind, setting = setting, ""
    if kind not in KINDS:
        raise ValueError(f"there is no reward {kind!r}; there are {known}")
    if not isinstance(weight, int | float):
        raise ValueError(f"the weight of {kind} must be a number, this is {weight!r}")
    if steps not in STEPS:
        raise ValueError(f"the steps of {kind} are one of {', '.join(STEPS)}, this is {steps!r}")
    if (kind in SETTINGS) != bool(setting) or not isinstance(setting, str):
        wanted = f"{{{kind}: {SETTINGS[kind]}}}" if kind in SETTINGS else f"{{name: {kind}, weight: ...}}"
        raise ValueError(f"write {wanted} instead of {given!r}")
    if kind == "function" and ":" not in setting:
        raise ValueError(f"write {{function: file.py:name}} instead of {given!r}")
    if kind == "server" and not setting.startswith(("http://", "https://")):
        raise ValueError(f"write {{server: http://...}} instead of {given!r}")
    if kind == "format":
        try:
            re.compile(setting)
        except re.error as error:
            raise ValueError(f"{setting!r} is no regular expression: {error}") from None
    return kind, setting, float(weight), str(steps)


class Task(chat.Task):
    """As `chat` where it writes; its rows are prompts, and what is expected of an answer."""

    formats: tuple[str, ...] = (
        "checkable", "code-problem", "prompt-completion", "question-answer", "messages", "sharegpt", "alpaca",
        "self-instruct",
    )  # fmt: skip
    splits = False
    metric = "reward"
    sample_options = {"max_new_tokens": 256}
    metrics: dict[str, bool] = {"reward": True, "loss": False, "finished": True, "length": False}

    def __init__(self, options: Options):
        super().__init__(chat.Options.model_validate({"system": options.system}))
        self.options = options
        self.rewards: list[Reward] = []
        self.scorers: dict[str, Function] = {}
        self.backbone: Backbone | None = None

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        findings: list[Finding] = []
        try:
            self._load([expected(example) for example in (*train, *evaluation)])
        except Refused as refused:
            return refused.findings
        kinds = {_parsed(one)[0] for one in self.options.rewards or []}
        if "function" in kinds:
            what = "rewards are given by Python code that is run here, as you are"
            findings.append(Finding("reinforce.function-run", KEY, what, severity="note"))
        return findings + (_untested([*train, *evaluation]) if "tests" in kinds else [])

    def _load(self, wanted: Sequence[str]) -> None:
        """The rewards; where none is named, the one that fits what the rows expect, which is then the recipe's. Raises
        Refused."""
        if self.rewards:
            return
        if self.options.rewards is None:
            numbers = all(last_number(one) is not None for one in wanted)
            self.options.rewards = ["number" if numbers else "exact"]
        named = [_parsed(one) for one in self.options.rewards]
        for kind, setting, weight, steps in named:
            function, told = self._function(kind, setting)
            same = sum(reward.name.partition("-")[0] == told for reward in self.rewards)
            name = f"{told}-{same + 1}" if same else told
            self.rewards.append(Reward(name, weight, function, whole=kind in ("tests", "model"), steps=steps))
        if len(self.rewards) > 1:
            self.metrics = {**self.metrics, **{f"reward_{reward.name}": True for reward in self.rewards}}

    def _function(self, kind: str, setting: str) -> tuple[Any, str]:
        """What rewards, and what it is called."""
        if kind == "tests":
            return passes, kind
        if kind == "function":
            return load_function(setting, self.options._base), setting.rpartition(":")[2]
        if kind == "model":
            return (lambda answers: self.scorer(setting, answers)), kind
        return (served(setting) if kind == "server" else verifier(kind, setting)), kind

    def scorer(self, name: str, answers: Sequence[Answer]) -> Any:
        """What a reward model gives for answers, which it reads beside the pictures that they are about."""
        asks: Any = self.scorers[name]
        return asks(*in_columns(answers))

    @property
    def reward_models(self) -> list[str]:
        """The runs that are named as rewards."""
        named = [_parsed(one) for one in self.options.rewards or []]
        return list(dict.fromkeys(setting for kind, setting, *_ in named if kind == "model"))

    def objective(self) -> str:
        return "grpo"

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        """The prompt as `chat` asks it, with what is expected where an answer will stand."""
        self.backbone = backbone
        end = min(self.terminators(backbone))

        def encode(example: Example) -> list[Features]:
            turns = with_system(before_answer(asked(example)), self.system)
            where = f"{example.source}:prompt"
            if not turns or turns[-1]["role"] != "user" or not str(turns[-1]["content"] or "").strip():
                what = "the prompt is empty" if turns else "there is no prompt"
                raise Refused(Finding("reinforce.prompt", where, what, "end it in a question, or leave the row out"))
            ids = encode_prompt(backbone.tokenizer, turns, tools=example.tools, where=where)
            shown: Features = shown_prompt(backbone, example, turns, ids) if example.images or example.sounds else {}
            ids = shown.get("input_ids", ids)
            if overlong == "truncate" and len(ids) >= limit:
                what = f"the prompt has {len(ids)} tokens of {limit}, and a prompt is not cut"
                raise Refused(Finding("reinforce.prompt", where, what, "set `overlong: drop`, or raise `max_length`"))
            wanted = backbone.tokenizer(expected(example), add_special_tokens=False)["input_ids"]
            answer = [*wanted, end]
            made: Features = {
                "input_ids": [*ids, *answer], "supervised": [False] * len(ids) + [True] * len(answer),
                "lengths": [len(ids) + len(answer)], "prompt": len(ids), "turn_ends": [], "weight": example.weight,
                "messages": turns, "expected": expected(example), "where": str(example.source),
                "problem": example.problem, "images": example.images or (),
            }  # fmt: skip
            return [made | {key: shown[key] for key in ("pictures", "cost") if key in shown}]

        return encode

    def rewarded(self, outputs: Sequence[dict[str, Any]], rows: Sequence[Features]) -> list[Rewarded]:
        """What written answers get; asked once, and kept with each. Raises Refused where a reward is none."""
        assert self.backbone is not None
        if any("rewarded" not in output for output in outputs):
            self._load([row["expected"] for row in rows])
            tokenizer, separator = self.backbone.tokenizer, self.options.separator
            texts = [str(tokenizer.decode(one["ids"], skip_special_tokens=True)).strip() for one in outputs]
            counts = [len(step_texts(text, separator)) for text in texts]
            written = [
                Answer(row["messages"], text, row["expected"], row["where"], row["problem"], count, row["images"])
                for row, text, count in zip(rows, texts, counts, strict=True)
            ]
            for output, found in zip(outputs, judge(self.rewards, written), strict=True):
                ends = step_ends(tokenizer, output["ids"], separator) if found.steps else []
                output["rewarded"] = replace(found, ends=tuple(ends))
        return [output["rewarded"] for output in outputs]

    def score(self, outputs: Sequence[dict[str, Any]], rows: Sequence[Features]) -> list[float]:
        return [one.total for one in self.rewarded(outputs, rows)]

    def _columns(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, list[float]]:
        found = self.rewarded(outputs, rows)
        parts = {f"reward_{name}": [one.parts[name] for one in found] for name in (found[0].parts if found else ())}
        return {
            "reward": [one.total for one in found], **(parts if len(parts) > 1 else {}),
            "finished": [float(output["finished"]) for output in outputs],
            "length": [float(len(output["ids"])) for output in outputs],
        }  # fmt: skip

    def plain(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, float]:
        return {name: sum(column) / max(1, len(column)) for name, column in self._columns(outputs, rows).items()}

    def with_intervals(self, outputs: list[Any], rows: Sequence[Features]) -> Metrics:
        return {name: mean_interval(column) for name, column in self._columns(outputs, rows).items()}

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        return {}

    def taught(self, example: Example, text: str) -> Example | None:
        """Answers are the model's own, and no teacher's to write."""
        return None

    def parse(self, given: Any) -> Example:
        """As `chat`; of a row its prompt."""
        example = super().parse(given)
        messages = before_answer(example.messages)
        return Example(
            example.source, messages=messages, tools=example.tools, images=example.images, sounds=example.sounds
        )

    def shown(self, example: Example) -> tuple[str, str]:
        return answers.shown_prompt(before_answer(asked(example))), expected(example)


def asked(example: Example) -> list[Message]:
    """Its turns; of a function that is begun the one that `code` asks it by."""
    if example.problem is not None and not example.messages:
        return [{"role": "user", "content": INSTRUCTION + (example.text or "")}]
    return example.messages or []


def _untested(examples: Sequence[Example]) -> list[Finding]:
    """Rows that `tests` could say nothing of; or a note that it is run, and on what."""
    mend = "give rows with `prompt`, `entry_point`, `canonical_solution` and `test`, or leave the reward `tests` out"
    bare = [example for example in examples if example.problem is None or not example.problem.tests.strip()]
    if bare:
        return [Finding("reinforce.tests", str(one.source), "this row has no tests", mend) for one in bare]
    if why := unavailable():
        return [Finding("task.sandbox", KEY, f"code is not run here: {why}", "use a Linux machine")]
    what = "code that the model wrote is run against its problems' tests, in a sandbox on this machine"
    return [Finding("task.tests-run", KEY, what, severity="note")]


def expected(example: Example) -> str:
    """What an answer is held against: its own field, or the answer that the row has; "" where there is none."""
    if example.targets:
        return example.targets[0]
    turns = example.messages or []
    return str(turns[-1]["content"] or "") if turns and turns[-1]["role"] == "assistant" else ""
