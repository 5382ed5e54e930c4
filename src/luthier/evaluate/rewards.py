"""Rewards of written answers: verifiers, Python functions and servers, several of them weighted and added up.

A function is called as ``function(prompts, answers, expected)``, three lists of one length (a prompt is a list of
turns, the others are texts; ``expected`` is "" where a row has none), and returns for each answer a number, or a list
of numbers, one for each step (``formats/steps.py``). What it gives is looked at before anything is trained on: no
number, NaN, another count, or an exception is an error at its row.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from luthier.evaluate.asking import Unanswered, ask
from luthier.evaluate.verifiers import VERIFIERS
from luthier.types import Finding, Message, Picture, Problem, Refused

KEY = "reinforce.rewards"
SERVER_SECONDS = 600.0
Function = Callable[[list[list[Message]], list[str], list[str]], Any]


@dataclass(frozen=True)
class Answer:
    """A written answer, what it answers, and where that row stands."""

    prompt: list[Message]
    text: str
    expected: str
    where: str
    problem: Problem | None = None
    steps: int = 1
    images: Sequence[Picture] = ()


@dataclass(frozen=True)
class Reward:
    """One of the rewards: ``name`` as it is told, its weight, and what gives it for several answers: of three lists of
    texts, or (``whole``) of the answers with all that is known of them. ``steps``: what becomes of a reward for each
    step: it stays one (each), or is one number for the answer (mean, min)."""

    name: str
    weight: float
    function: Function | Callable[[Sequence[Answer]], Any]
    whole: bool = False
    steps: str = "each"

    def given(self, answers: Sequence[Answer]) -> Any:
        if self.whole:
            return self.function(answers)  # type: ignore[call-arg, arg-type]
        prompts, texts, expected, _ = in_columns(answers)
        return self.function(prompts, texts, expected)  # type: ignore[call-arg, arg-type]


def in_columns(answers: Sequence[Answer]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Prompts, texts, what is expected, and pictures."""
    told = [(answer.prompt, answer.text, answer.expected, answer.images) for answer in answers]
    prompts, texts, expected, images = map(list, zip(*told, strict=True))
    return prompts, texts, expected, images


@dataclass(frozen=True)
class Rewarded:
    """What an answer got: the weighted sum, and each reward by its name. ``steps`` is the part of the sum that belongs
    to single steps, and ``ends`` the tokens of the answer at which these end; both empty where none does."""

    total: float
    parts: dict[str, float] = field(default_factory=dict)
    steps: tuple[float, ...] = ()
    ends: tuple[int, ...] = ()

    @property
    def placed(self) -> list[tuple[int, float]]:
        """Token of the answer, and what a step that ends there got."""
        return list(zip(self.ends, self.steps, strict=True))


def verifier(name: str, setting: str = "") -> Function:
    """One of ``VERIFIERS`` as a reward of several answers."""

    def function(prompts: list[list[Message]], answers: list[str], expected: list[str]) -> list[float]:
        return [VERIFIERS[name](answer, wanted, setting) for answer, wanted in zip(answers, expected, strict=True)]

    return function


def served(url: str) -> Function:
    """What a server gives for ``{"prompts", "answers", "expected"}``: ``{"rewards": [...]}``. Raises Refused."""

    def function(prompts: list[list[Message]], answers: list[str], expected: list[str]) -> Any:
        why = "its answer has no `rewards`"
        try:
            said = ask(url, {"prompts": prompts, "answers": answers, "expected": expected}, timeout=SERVER_SECONDS)
            if isinstance(said, dict) and "rewards" in said:
                return said["rewards"]
        except Unanswered as unanswered:
            why = str(unanswered)
        mend = 'it must answer a POST of prompts, answers and expected with {"rewards": [a number for each answer]}'
        raise Refused(Finding("reinforce.reward-server", KEY, f"{url}: {why}", mend))

    return function


def load_function(spelled: str, base: Path) -> Function:
    """``file.py:name`` (a path relative to ``base``) or ``package.module:name``. Raises Refused where there is none."""
    place, _, name = spelled.rpartition(":")
    try:
        module = _of_file(base / place) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:
        what = f"{spelled!r} could not be loaded: {type(error).__name__}: {error}"
        raise Refused(Finding("reinforce.function", KEY, what, "write file.py:name or package.module:name")) from error
    function = vars(module).get(name)
    if not callable(function):
        known = ", ".join(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
        what = f"{place} has no function {name!r}"
        raise Refused(Finding("reinforce.function", KEY, what, f"it has {known}" if known else ""))
    return function


def _of_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"luthier_reward_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def judge(rewards: Sequence[Reward], answers: Sequence[Answer]) -> list[Rewarded]:
    """What each answer gets. Raises Refused with everything that is wrong with what the functions gave."""
    findings: list[Finding] = []
    columns: list[list[list[float]]] = []
    for reward in rewards if answers else ():
        try:
            given = reward.given(answers)
        except Refused as refused:
            findings += refused.findings
            continue
        except Exception as error:
            findings.append(_raised(reward, answers, error))
            continue
        columns.append(_numbers(reward, given, answers, findings))
    if findings:
        raise Refused(*findings)
    return [_rewarded(rewards, [column[at] for column in columns]) for at in range(len(answers))]


def _rewarded(rewards: Sequence[Reward], given: Sequence[list[float]]) -> Rewarded:
    """Of one answer, by what each reward gave: a number for each step, or one alone, which is the whole answer's."""
    parts = {reward.name: sum(values) for reward, values in zip(rewards, given, strict=True)}
    by_step = [
        [reward.weight * value for value in values]
        for reward, values in zip(rewards, given, strict=True)
        if len(values) > 1
    ]
    steps = tuple(sum(column) for column in zip(*by_step, strict=True))
    return Rewarded(sum(reward.weight * parts[reward.name] for reward in rewards), parts, steps)


def _raised(reward: Reward, answers: Sequence[Answer], error: Exception) -> Finding:
    """The row is found by giving the function its answers one at a time."""
    where, text = answers[0].where, ""
    for answer in answers:
        try:
            reward.given([answer])
        except Exception as alone:
            where, text, error = answer.where, f" on the answer {answer.text[:80]!r}", alone
            break
    what = f"the reward `{reward.name}` raised {type(error).__name__}: {error}{text}"
    return Finding("reinforce.reward-raised", where, what, "mend the function: it must give a number for any text")


def _numbers(reward: Reward, given: Any, answers: Sequence[Answer], findings: list[Finding]) -> list[list[float]]:
    """Of each answer one number, or one for each of its steps."""
    try:
        values = list(given)
    except TypeError:
        values = []
    if len(values) != len(answers):
        told = f"{len(values)} numbers" if values else f"{type(given).__name__}, no list of numbers"
        what = f"the reward `{reward.name}` gave {told} for {len(answers)} answers"
        findings.append(Finding("reinforce.reward-count", answers[0].where, what, "give one number for each answer"))
        return []
    return [_of_answer(reward, value, answer, findings) for value, answer in zip(values, answers, strict=True)]


def _of_answer(reward: Reward, value: Any, answer: Answer, findings: list[Finding]) -> list[float]:
    by_step = isinstance(value, list | tuple)
    numbers = [float(one) if isinstance(one, Real) else math.nan for one in (value if by_step else [value])]
    finding = None
    if by_step and len(numbers) != answer.steps:
        what = f"the reward `{reward.name}` gave {len(numbers)} numbers for {answer.steps} steps: {answer.text[:80]!r}"
        mend = "give one for each part between `reinforce.separator` that is not blank, or one number for the answer"
        finding = Finding("reinforce.reward-steps", answer.where, what, mend)
    elif not all(map(math.isfinite, numbers)):
        what = f"the reward `{reward.name}` is {value!r} for the answer {answer.text[:80]!r}"
        finding = Finding("reinforce.reward-value", answer.where, what, "give a finite number for any text")
    if finding is not None:
        findings += [finding] if finding not in findings else []
        return [math.nan]
    if by_step and reward.steps != "each":
        return [min(numbers) if reward.steps == "min" else sum(numbers) / len(numbers)]
    return numbers
