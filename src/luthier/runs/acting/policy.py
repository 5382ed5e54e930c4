"""A finished run of `act` as a policy: observations in, actions out, for several episodes at a time.

It remembers what an episode has shown as far as its frames of the past need, and what it meant to do: a chunk is
carried out to its end, or its first ``execute`` actions; with ``ensemble`` every step asks anew, and what was said of
it before is averaged in, w_i = exp(-m i) with i = 0 the oldest (Zhao et al. 2023, arXiv 2304.13705, section IV-B).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luthier.environments.world import Observation, png
from luthier.runs.run import Run, load
from luthier.types import INLINE, Example, Finding, Refused, Step

DECAY = 0.01  # m of the ensemble


@dataclass
class Memory:
    """Of one episode: what its actions are drawn by, the frames seen, each chunk with the step that it was made at."""

    seed: int = 0
    frames: list[bytes] = field(default_factory=list)
    chunks: list[tuple[int, list[Any]]] = field(default_factory=list)
    step: int = 0

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)


class Policy:
    """With a ``temperature`` an action that is a name is drawn from softmax(z / T): one that only names the likeliest
    walks in circles where what it sees comes back."""

    def __init__(self, run: Run, *, execute: int | None = None, ensemble: bool = False, temperature: float = 0.0):
        if run.info["task"] != "act":
            what, mend = f"this is a run of `{run.info['task']}`", "give one of `task: act`"
            raise Refused(Finding("run.task", str(run.folder), what, mend))
        self.run, self.predictor, self.options = run, run.predictor, run.resolved.task_options
        self.execute, self.ensemble, self.temperature = execute or self.options.chunk, ensemble, temperature
        self.named = self.predictor.task.predicts == "classes"
        if not 1 <= self.execute <= self.options.chunk:
            what = f"chunks of this run have {self.options.chunk} action(s), and {self.execute} can't be carried out"
            raise Refused(Finding("act.execute", "--execute", what, f"give 1 to {self.options.chunk}"))
        if temperature < 0 or (temperature and not self.named):
            what = f"actions can't be drawn at temperature {temperature}"
            raise Refused(Finding("act.execute", "--temperature", what, "give 0 or more, of actions that are names"))
        if ensemble and (self.named or self.options.chunk == 1):
            what = "there is nothing to average: this run names one action at a time"
            raise Refused(Finding("act.execute", "--ensemble", what, "leave it out"))

    def __call__(self, seen: Sequence[Observation], memories: Sequence[Memory]) -> list[Any]:
        """The next action of each episode; its memory is brought up to date."""
        asked = []
        for observation, memory in zip(seen, memories, strict=True):
            memory.frames = [*memory.frames, png(observation.pixels)][-self.options.history :]
            if self.ensemble or not memory.chunks or memory.step - memory.chunks[-1][0] >= self.execute:
                asked.append((observation, memory))
        answers = self.predictor.task.answer(self.predictor, [self._example(*pair) for pair in asked]) if asked else []
        for (_, memory), answer in zip(asked, answers, strict=True):
            kept = memory.chunks[-self.options.chunk + 1 :] if self.ensemble and self.options.chunk > 1 else []
            memory.chunks = [*kept, (memory.step, answer.get("chunk") or [self._named(answer, memory)])]
        return [self._next(memory) for memory in memories]

    def _named(self, answer: dict[str, Any], memory: Memory) -> str:
        if not self.temperature:
            return str(answer["action"])
        names, p_C = list(answer["probabilities"]), np.array(list(answer["probabilities"].values()))
        p_C = np.exp(np.log(np.maximum(p_C, 1e-30)) / self.temperature)
        return str(memory.generator.choice(names, p=p_C / p_C.sum()))

    def _next(self, memory: Memory) -> Any:
        said = [chunk[memory.step - at] for at, chunk in memory.chunks if memory.step - at < len(chunk)]
        memory.step += 1
        if len(said) == 1 or not self.ensemble:
            return said[-1]
        weights = [math.exp(-DECAY * i) for i in range(len(said))]
        columns = zip(*said, strict=True)
        return [sum(w * x for w, x in zip(weights, column, strict=True)) / sum(weights) for column in columns]

    def _example(self, observation: Observation, memory: Memory) -> Example:
        """Frames so far as the steps of an episode that goes on."""
        steps = [Step((at,), observation.state if self.predictor.task.known.state else None)
                 for at in range(len(memory.frames))]  # fmt: skip
        return Example(INLINE, text=observation.instruction or None, images=list(memory.frames), steps=steps)


def open_policy(run: str | Path, **options: Any) -> Policy:
    """Raises Refused where the run is none of `act`, has no final model, or lacks its statistics."""
    return Policy(load(run), **options)
