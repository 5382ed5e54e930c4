"""What the objectives on a model's own answers share: prompts as rows, and the answers that were written to them.

A row as it is read is a prompt. Before a step its prompts are answered (``online/rollouts.py``); a row of the step is
one of these answers, with what it is to be learned by:

| features | |
|---|---|
| input_ids, lengths | prompt and answer, its terminator among it; one sequence |
| supervised | True where a token is of the answer |
| prompt | tokens of the prompt |
| begins | as many, where the prompt is computed once for its answers |
| pictures | those that stand in it, where there are some |
| advantage | how much better the answer is than others of its group |
| old | log-probabilities of its tokens when it was written, where it is learned more than once |
| reference | log-probabilities of its tokens under the reference, where KL counts |
| gap | of a server's answers log π - log π_server of each token, π being the model that trains as it was then |
| messages, expected, where | what a reward is told |

A prompt row has what is expected in the answer's place, so that checks and plans see a row of that kind; no step learns
from it. The log-probabilities of what is learned are those of the trainer's own forward pass, without dropout, at the
temperature of the sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from luthier.evaluate.generate import generate, terminators
from luthier.models.backbone import Backbone
from luthier.objectives.likelihood import supervised_tokens
from luthier.objectives.preference import REFERENCE, Report, TokenReader
from luthier.options import Options as Section
from luthier.types import Batch, Example, Features, LossTerms, Prompt

OLD, ADVANTAGE, GAP = "old", "advantage", "gap"
LOGS = "logs"
"""Of an answer as a server gives it: the log-probabilities that it was drawn by."""


class ServerOptions(Section):
    """A server that writes the answers."""

    url: str = Field(pattern="^https?://", description="of an OpenAI-compatible server, as http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="the base model's name there")
    adapter: bool = Field(True, description="it is given the LoRA adapter before each rollout (vLLM)")
    timeout: float = Field(600.0, gt=0, description="seconds that an answer may take")
    gap: float = Field(0.1, gt=0, description="nats a token between trainer and server, above which the run stops")
    cap: float = Field(2.0, ge=1, description="the most that a token weighs for being likelier to the trainer")


class SamplingOptions(Section):
    """How answers are drawn, and what becomes of them."""

    temperature: float = Field(1.0, gt=0, description="of the sampling")
    max_new_tokens: int = Field(256, gt=0, description="the longest answer")
    generation_batch: int = Field(64, gt=0, description="answers that are written at a time")
    server: ServerOptions | None = Field(
        None, description="writes the answers, in the place of the model that trains: `url` and `model`; `adapter`, "
        "`timeout`, `gap`, `cap`",
    )  # fmt: skip
    merge: Literal["auto", "on", "off"] = Field(
        "auto", description="LoRA lies in the weights while answers are drawn, in a copy of those that it adapts: "
        "where they are fp32; in any precision; or not",
    )  # fmt: skip
    reference: Literal["auto", "switched", "copy"] = Field(
        "auto", description="the model as it came: with the method switched off, or a frozen copy of it"
    )


@dataclass
class Asked(Batch):
    """A batch that knows what was asked."""

    prompts: list[Prompt] = field(default_factory=list)


def prompt_of(row: Features) -> Prompt:
    """The ids of a row's prompt, with its pictures where it has some."""
    ids: list[int] = row["input_ids"][: row["prompt"]]
    return {"input_ids": ids, "pictures": row["pictures"]} if row.get("pictures") else ids


class Reads(Protocol):
    """Gives ``objective.outputs`` of rows, under the weights as they are."""

    def outputs(self, objective: Any, rows: Sequence[Features]) -> list[Any]: ...


class OnlineObjective:
    """A subclass says how often answers are learned, what they are learned by, and what their loss is."""

    needs = "token_logits"
    couples = False
    shares = False
    """Whether it reads nothing but supervised tokens, so that answers to one prompt may be laid behind it once."""
    per_token: tuple[str, ...] = (OLD, REFERENCE, GAP)
    """What a row has of each token of its answer."""

    def __init__(self, options: Any, backbone: Backbone, encoder: Callable[[Example], list[Features]] | None):
        """``encoder(example) -> [features]`` is the task's. ``parameters`` are those that it has itself, by name;
        ``state`` is what it keeps between steps, and so in every checkpoint."""
        self.options, self.backbone, self.encoder = options, backbone, encoder
        self.reader = TokenReader(backbone, options.temperature)
        self.score: Callable[[Sequence[Any], Sequence[Features]], list[float]] | None = None
        self.stop: Sequence[int] = ()
        self.parameters: dict[str, nn.Parameter] = {}
        self.state: dict[str, float] = {}
        backbone.dropout = False

    @property
    def compares(self) -> bool:
        """Whether it needs a reference."""
        return bool(self.options.beta > 0)

    @property
    def repeats(self) -> int:
        """Optimizer steps on the same answers."""
        raise NotImplementedError

    @property
    def minibatches(self) -> int:
        """Into how many parts the answers are cut; each step learns from one."""
        return 1

    @property
    def redraws(self) -> int:
        """How often groups of equal rewards are given up for other prompts' before a step."""
        return 0

    @property
    def recalls(self) -> bool:
        """Whether answers keep the log-probabilities that they were written with."""
        return self.repeats > 1 or self.options.server is not None

    def learned(self, prompt: Features, answers: Sequence[dict[str, Any]], rewards: Sequence[float]) -> list[Features]:
        """The rows of one prompt's answers, each ``{"ids", "finished"}``, of which some may be left out."""
        raise NotImplementedError

    def settled(self, rows: list[Features], reader: Reads) -> tuple[list[Features], Report]:
        """All rows of a rollout, with what they are learned by; and what is watched of them."""
        return rows, {}

    def loss(self, backbone: Backbone, batch: Batch) -> LossTerms:
        raise NotImplementedError

    def encode(self, example: Example) -> list[Features]:
        """A row's full length is that with the longest answer."""
        assert self.encoder is not None
        rows = self.encoder(example)
        return [row | {"full_length": row["prompt"] + self.options.max_new_tokens} for row in rows]

    def units(self, features: Features) -> int:
        return sum(supervised_tokens(features))

    def collate(self, rows: list[Features]) -> Batch:
        """As ``lay_out_answers``, and per row ``weights`` (K,), ``advantages`` (K,), and its prompt."""
        read = self.reader.collate(rows)
        batch = Asked(read.tensors, read.rows, read.tokens, [prompt_of(row) for row in rows])
        batch.tensors["weights"] = torch.tensor([row["weight"] for row in rows], dtype=torch.float32)
        batch.tensors["advantages"] = torch.tensor([row.get(ADVANTAGE, 1.0) for row in rows], dtype=torch.float32)
        for name in self.per_token:
            if all(name in row for row in rows):
                batch.tensors[name] = torch.cat([torch.as_tensor(row[name]) for row in rows])
        return batch

    def outputs(self, backbone: Backbone, batch: Batch) -> list[dict[str, Any]]:
        """The likeliest answer to each row's prompt, token by token: its ``ids`` and whether it ``finished``."""
        assert isinstance(batch, Asked)
        return self.write(backbone, batch.prompts, 0.0, 0)

    def write(
        self, backbone: Backbone, prompts: Sequence[Prompt], temperature: float, seed: int
    ) -> list[dict[str, Any]]:
        """An answer to each prompt: ``ids`` with the terminator, and whether it ``finished``."""
        grown = generate(
            backbone, prompts, max_new_tokens=self.options.max_new_tokens, temperature=temperature, seed=seed,
            stop=self.stop, batch_size=self.options.generation_batch, whole=True,
        )  # fmt: skip
        ends = {*self.stop, *terminators(backbone)}
        return [{"ids": ids, "finished": bool(ids) and ids[-1] in ends} for ids in grown]

    def mean_loss(self, outputs: list[Any], rows: list[Features]) -> float:
        """What is to become small: the mean reward of the answers, with a minus."""
        assert self.score is not None
        return -sum(self.score(outputs, rows)) / max(1, len(rows))

    def weights(self, gaps: Tensor) -> Tensor:
        """How much what a server wrote weighs, from log π - log π_server."""
        return gaps.exp().clamp(max=self.options.server.cap)

    def answered(self, prompt: Features, answer: dict[str, Any], **learned_by: Any) -> Features:
        """A prompt's row with an answer that was written, to be learned."""
        ids: list[int] = answer["ids"]
        learned_by |= {LOGS: answer[LOGS]} if LOGS in answer else {}
        asked = prompt["input_ids"][: prompt["prompt"]]
        made = {
            "input_ids": [*asked, *ids], "lengths": [len(asked) + len(ids)],
            "supervised": [False] * len(asked) + [True] * len(ids),
        }  # fmt: skip
        return {**prompt, **made, **self.begun(prompt), **learned_by}

    def begun(self, prompt: Features) -> Features:
        """How many tokens of its answers' rows are computed once for all of them."""
        return {"begins": prompt["prompt"]} if self.shares and self.backbone.shares else {}
