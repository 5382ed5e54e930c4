"""Answers that an OpenAI-compatible server writes (vLLM's ``/v1/completions``), in the place of the model that trains.

Before each rollout the server is given the adapter as it is by then (``/v1/load_lora_adapter``). Each answer is asked
for by token ids and comes back as such, with the log-probabilities under which the server drew them. These are never
the old policy of a ratio: the trainer reads each answer itself (``online/rollouts.py``), so that at step 0 ratio and KL
are what they would be. What lies between the two, of other kernels, precision or weights, is measured, and the
surrogate of a token is weighed by min(π_trainer/π_server, cap): truncated importance sampling (Yao et al. 2025, "Your
efficient RL framework secretly brings you off-policy RL training"; TRL's `token_truncate`). Only the standard library
is used, no proxy and no key.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.engine.parallel import Processes
from luthier.evaluate.asking import TRIES, Unanswered, ask
from luthier.evaluate.generate import terminators
from luthier.objectives.online import LOGS, OnlineObjective, ServerOptions
from luthier.types import Finding, Prompt, Refused

AS_DRAWN = {
    "n": 1, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "logprobs": 1, "return_token_ids": True, "return_tokens_as_token_ids": True,
    "skip_special_tokens": False,
}  # fmt: skip
MARK = "token_id:"
HOW = "vllm serve MODEL --enable-lora --logprobs-mode processed_logprobs, with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"


@dataclass
class Server:
    """``key`` is the recipe's, as errors name it."""

    options: ServerOptions
    key: str

    def refused(self, what: str, mend: str = "") -> Refused:
        return Refused(
            Finding("reinforce.server", self.key, f"{self.options.url}: {what}", mend or f"start it as {HOW}")
        )

    def get(self, path: str) -> Any:
        return self._asked(path, None, tries=1)

    def post(self, path: str, told: dict[str, Any]) -> Any:
        return self._asked(path, told, tries=TRIES)

    def _asked(self, path: str, told: dict[str, Any] | None, tries: int) -> Any:
        """Raises Refused."""
        try:
            return ask(f"{self.options.url.rstrip('/')}/{path}", told, timeout=self.options.timeout, tries=tries)
        except Unanswered as why:
            if why.late:
                mend = "raise `timeout`, or ask for fewer at a time: `generation_batch`"
                raise self.refused(f"{why} (`timeout`)", mend) from None
            raise self.refused(str(why)) from None


class Served:
    """A ``Writer`` (``online/writing.py``). ``save`` writes the adapter as it is to a folder that the server can read;
    None where the server has weights of its own."""

    def __init__(
        self, objective: OnlineObjective, server: Server, processes: Processes, folder: Path,
        save: Callable[[Path], None] | None,
    ):  # fmt: skip
        self.objective, self.server, self.processes = objective, server, processes
        self.folder, self.save = folder, save
        self.model, self.rounds = server.options.model, 0

    def apart(self, gaps: Sequence[Tensor]) -> dict[str, tuple[float, float]]:
        """What is told of log π_trainer - log π_server, (n,) for each answer. Raises Refused above what is allowed."""
        return gap_of(gaps, self.server)

    @contextmanager
    def round(self) -> Iterator[None]:
        if self.save is None:
            yield
            return
        self.rounds += 1
        name = f"{self.folder.name}-{self.rounds}"
        findings: list[Finding] = []
        if self.processes.main:
            findings = _caught(lambda: self._hand_over(name))
        if found := self.processes.gather(findings):
            raise Refused(*found)
        self.model = name
        try:
            yield
        finally:
            if self.processes.main:
                _caught(lambda: self.server.post("unload_lora_adapter", {"lora_name": name}))
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def _hand_over(self, name: str) -> None:
        assert self.save is not None
        place = (self.folder / name).resolve()
        place.mkdir(parents=True, exist_ok=True)
        self.save(place)
        self.server.post("load_lora_adapter", {"lora_name": name, "lora_path": str(place)})

    def written(self, prompts: Sequence[Prompt], seed: int) -> list[dict[str, Any]]:
        """Answers with their ``logs``; in the place of one that could not be had, its ``findings``."""
        with ThreadPoolExecutor(max_workers=max(1, len(prompts))) as pool:
            return list(pool.map(self._asked, prompts, (seed % 2**31 + at for at in range(len(prompts)))))

    def _asked(self, prompt: Prompt, seed: int) -> dict[str, Any]:
        objective = self.objective
        ends = sorted({*objective.stop, *terminators(objective.backbone)})
        told = AS_DRAWN | {
            "model": self.model, "prompt": prompt, "max_tokens": objective.options.max_new_tokens, "seed": seed % 2**31,
            "temperature": objective.options.temperature, "stop_token_ids": ends,
        }  # fmt: skip
        try:
            return self._answer(self.server.post("completions", told), set(ends))
        except Refused as refused:
            return {"findings": refused.findings}

    def _answer(self, given: Any, ends: set[int]) -> dict[str, Any]:
        """Raises Refused for what is no answer in tokens, each with its log-probability."""
        choices = given.get("choices") if isinstance(given, dict) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            count = len(choices) if isinstance(choices, list) else 0
            raise self.server.refused(f"one answer was asked for, and {count} came: {str(given)[:200]}")
        choice, told = choices[0], choices[0].get("logprobs") or {}
        ids, logs = choice.get("token_ids"), told.get("token_logprobs")
        if ids is None and all(str(one).startswith(MARK) for one in told.get("tokens") or ["none"]):
            ids = [int(str(one).removeprefix(MARK)) for one in told["tokens"]]
        if not isinstance(ids, list) or not isinstance(logs, list):
            missing = "tokens" if not isinstance(ids, list) else "log-probabilities"
            raise self.server.refused(f"an answer came without the {missing} that it was drawn by")
        if problem := self._problem(ids, logs, choice.get("finish_reason"), ends):
            raise self.server.refused(problem)
        return {"ids": ids, LOGS: [float(one) for one in logs], "finished": ids[-1] in ends}

    def _problem(self, ids: list[Any], logs: list[Any], reason: Any, ends: set[int]) -> str:
        most, words = self.objective.options.max_new_tokens, len(self.objective.backbone.embedding.weight)
        if len(ids) != len(logs) or not 0 < len(ids) <= most:
            return f"an answer has {len(ids)} tokens of at most {most}, and {len(logs)} log-probabilities"
        if not all(isinstance(one, int) and 0 <= one < words for one in ids):
            return f"an answer has a token that is none of the {words} that are trained: the server has another model"
        if not all(isinstance(one, int | float) and math.isfinite(one) and one <= 1e-3 for one in logs):
            return "a log-probability is no finite number of at most 0"
        if ends & set(ids[:-1]):
            return "an answer goes on after a token that ends one"
        if reason == "stop" and ids[-1] not in ends:
            return "an answer ended, and the token that ended it was left out"
        return ""


def _caught(does: Callable[[], Any]) -> list[Finding]:
    try:
        does()
    except Refused as refused:
        return refused.findings
    return []


def check_server(objective: OnlineObjective, key: str, hands_over: bool, reach: bool) -> list[Finding]:
    """Whether it can be asked at all, before the first step; ``hands_over``: what trains is an adapter that it could be
    given."""
    options = objective.options.server
    if not isinstance(options, ServerOptions):  # none, or one that is refused already
        return []
    server = Server(options, key)
    if options.adapter and not hands_over:
        what = "a server can be given a LoRA adapter, and the method is another one: it would write with other weights"
        mend = "use `method: lora`, or leave `server` out"
        return [Finding("reinforce.server", f"{key}.adapter", what, mend)]
    if not reach:
        return []
    try:
        listed = server.get("models")
        names = [str(one.get("id")) for one in listed["data"]]
    except Refused as refused:
        return refused.findings
    except (TypeError, KeyError, AttributeError):
        return server.refused("/models gives no list of models").findings
    if options.model not in names:
        return server.refused(f"has no model {options.model!r}", f"there are: {', '.join(names)}").findings
    return []


def gap_of(gaps: Sequence[Tensor], server: Server) -> dict[str, tuple[float, float]]:
    """Mean and largest of ``gaps`` as (sum, count). Raises Refused."""
    allowed = server.options.gap
    sizes_N = torch.cat([gap_n.double().abs() for gap_n in gaps])
    mean, most = float(sizes_N.mean()), float(sizes_N.max())
    if not mean <= allowed:
        what = f"trainer and server are {mean:.3g} nats a token apart, {most:.3g} at most, and {allowed:g} are allowed"
        mend = "see that both have the same model and precision, that the server runs with `--logprobs-mode "
        mend += "processed_logprobs` where `temperature` is not 1, and that `server.adapter` is not off"
        raise Refused(Finding("reinforce.server-gap", f"{server.key}.gap", what, mend))
    return {"gap": (float(sizes_N.sum()), float(len(sizes_N))), "gap_max": (most, 1.0)}
