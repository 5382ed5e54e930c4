"""Write code: from a description, or a function that is begun. Its tests are run only where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field, field_validator, model_validator

from luthier.data.text.continued import begun, goes_on
from luthier.data.text.template import encode_chat, encode_prompt, turn_terminators
from luthier.data.text.turns import before_answer
from luthier.evaluate import code
from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.sandbox import Limits, run_tests, unavailable
from luthier.sandbox.run import Job
from luthier.tasks.chat import asked_of
from luthier.tasks.common import Ask, Encoder
from luthier.tasks.language import cut, features_of
from luthier.tasks.source import FromSource, WritingOptions
from luthier.types import INLINE, Example, Features, Finding, Message, Problem, Prompt

DEFAULTS = {"batch_size": 16, "overlong": "drop", "epochs": 3.0}


class Options(WritingOptions):
    separator: str = Field("\n\n", description="between description and code, where there is no chat template")
    instruction: str = Field(
        "Complete this Python function.\n\n", description="before a function that is begun, where there is one"
    )
    max_new_tokens: int = Field(256, gt=0, description="the longest answer")
    run_tests: bool = Field(
        False, description="run what the model writes against the problems' tests, in a sandbox on this machine"
    )
    samples: int = Field(1, gt=0, description="answers to each problem, of which pass@k is told")
    pass_at: list[int] = Field([1], min_length=1, description="the k of pass@k")
    temperature: float = Field(0.0, ge=0, description="of those answers; 0 is greedy")
    seconds: float = Field(5.0, gt=0, description="of processor time that tests may take")
    memory_mb: int = Field(512, ge=64, description="that tests may take")

    @field_validator("pass_at")
    @classmethod
    def _counts(cls, given: list[int]) -> list[int]:
        if min(given) < 1:
            raise ValueError("k is at least 1")
        return sorted(set(given))

    @model_validator(mode="after")
    def _told_by_samples(self) -> Options:
        if max(self.pass_at) > self.samples:
            raise ValueError(f"pass@{max(self.pass_at)} needs `samples: {max(self.pass_at)}` or more")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("several samples are all the same at temperature 0: give `temperature: 0.8`, say")
        return self


class Task(FromSource):
    formats = ("code-problem", "alpaca", "prompt-completion")

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        tested = sum(_tested(example) for example in evaluation)
        if not self.options.run_tests:
            what = f"the tests of {tested} problem(s) are not run: that would run code which the model wrote"
            mend = "set `code.run_tests: true`: in a sandbox without network, files and processes"
            return [Finding("task.tests-not-run", "code.run_tests", what, mend, severity="note")] if tested else []
        if not tested:
            mend = "give `data.eval` problems with `prompt`, `entry_point` and `test`, or leave it out"
            return [Finding("recipe.combination", "code.run_tests", "no row to evaluate on has tests", mend)]
        if why := unavailable():
            return [Finding("task.sandbox", "code.run_tests", f"code is not run here: {why}", "leave it out")]
        what = f"the tests of {tested} problem(s) are run on code that the model wrote, in a sandbox on this machine"
        return [Finding("task.tests-run", "code.run_tests", what, severity="note")]

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        self.limit = limit

        def encode(example: Example) -> list[Features]:
            target = next(iter(self.references(example)), "")
            return [cut(self.row(backbone, example, target, limit), limit, overlong) | {"weight": example.weight}]

        return encode

    def source(self, example: Example) -> str:
        if example.messages:
            return "\n\n".join(str(turn["content"]) for turn in example.messages if turn["role"] != "assistant")
        return example.text or ""

    def references(self, example: Example) -> list[str]:
        if example.messages and example.messages[-1]["role"] == "assistant":
            return [str(example.messages[-1]["content"])]
        return example.targets or []

    def taught(self, example: Example, text: str) -> Example:
        if not example.messages:
            return replace(example, targets=[text])
        asked = before_answer(example.messages)
        return replace(example, messages=[*asked, {"role": "assistant", "content": text}])

    def row(self, backbone: Backbone, example: Example, target: str | None, limit: int) -> Features:
        """Three ways: source and target apart, a conversation, or one text that goes on."""
        tokenizer, problem = backbone.tokenizer, example.problem
        if backbone.encoder_decoder:
            return super().row(backbone, example, target, limit)
        if _talks(backbone):
            messages = self._asked(example)
            if target is None:
                return {"input_ids": encode_prompt(tokenizer, messages)}
            answer = self.source(example) + target if problem else target
            answered: list[Message] = [*messages, {"role": "assistant", "content": answer.rstrip()}]
            return features_of(encode_chat(tokenizer, answered, train_on="last", where=f"{example.source}"), example)
        given = self.options.prefix + self.source(example) + ("" if problem else self.options.separator)
        if target is None:
            ids, rest = begun(tokenizer, given) if problem else begun(tokenizer, given, "x")
            return {"input_ids": ids, "rest": rest}
        return features_of(goes_on(tokenizer, given, target.rstrip()), example)

    def _asked(self, example: Example) -> list[Message]:
        if example.messages:
            return before_answer(example.messages)
        before = self.options.instruction if example.problem else ""
        return [{"role": "user", "content": self.options.prefix + before + self.source(example)}]

    def decoded(self, backbone: Backbone, prompt: Prompt, ids: list[int]) -> str:
        """With the indentation of its first line, which is code: a tokenizer may drop a space that begins a text."""
        before = [] if backbone.encoder_decoder or isinstance(prompt, dict) else prompt
        given, whole = (
            str(backbone.tokenizer.decode(some, skip_special_tokens=True, clean_up_tokenization_spaces=False))
            for some in (before, [*before, *ids])
        )
        return whole[len(given) :].rstrip()

    def terminators(self, backbone: Backbone) -> list[int]:
        ends = super().terminators(backbone)
        return sorted({*ends, *turn_terminators(backbone.tokenizer)}) if _talks(backbone) else ends

    def parse(self, given: Any) -> Example:
        """A row with an ``entry_point`` is a function that is begun, and asked for as one."""
        named = isinstance(given, dict) and given.get("entry_point")
        return Example(INLINE, text=asked_of(given), problem=Problem(str(named)) if named else None)

    def written(self, row: Features, answer: dict[str, Any]) -> dict[str, Any]:
        """What goes on from a text, without what that text said already."""
        return answer | {"text": answer["text"].removeprefix(row.get("rest", "")).lstrip("\n")}

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        """pass@k over every problem that has tests, where they are to be run; and how many answers are Python."""
        problems = [example for example in examples if _tested(example)]
        if not problems:
            return {}
        options = self.options
        jobs = [self._job(ask, problem, answer) for problem, answer in self._sampled(ask, problems)]
        valid = [code.is_python(job.source) for job in jobs]
        found: Metrics = {"valid_python": {"value": sum(valid) / len(valid), "n": len(valid)}}
        if not options.run_tests:
            return found
        verdicts = run_tests(jobs, Limits(options.seconds, options.memory_mb))
        by_problem = [verdicts[at : at + options.samples] for at in range(0, len(verdicts), options.samples)]
        return {**code.with_intervals(by_problem, options.pass_at), **found}

    def _sampled(self, ask: Ask, problems: Sequence[Example]) -> list[tuple[Example, str]]:
        repeated = [problem for problem in problems for _ in range(self.options.samples)]
        answers = self.answer(ask, repeated, temperature=self.options.temperature)
        return [(problem, answer["text"]) for problem, answer in zip(repeated, answers, strict=True)]

    def _job(self, ask: Ask, example: Example, answer: str) -> Job:
        prompt, problem = example.text or "", example.problem
        assert problem is not None, "only problems are run"
        goes_on = not (ask.backbone.encoder_decoder or _talks(ask.backbone))
        source = code.source_of(answer, prompt, problem.entry_point, goes_on=goes_on)
        return Job(source, code.stub(prompt), problem.tests, problem.entry_point)


def _talks(backbone: Backbone) -> bool:
    """Whether rows are conversations."""
    return bool(not backbone.encoder_decoder and backbone.tokenizer.chat_template)


def _tested(example: Example) -> bool:
    return example.problem is not None and bool(example.problem.tests.strip())
