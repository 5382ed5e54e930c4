"""A finished run as lm-evaluation-harness sees a model (``pip install "luthier[lm-eval]"``).

    lm_eval.simple_evaluate(model=RunModel(luthier.load("runs/chat-qwen3-lora")), tasks=["arc_easy"])

The harness asks for log-probabilities and for text, and knows nothing of tokens; how both are made is told in
`evaluate/continuations.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from lm_eval.api.model import LM

from luthier.data.text.render import render, template_of
from luthier.data.text.turns import with_system
from luthier.evaluate.continuations import Continuations
from luthier.runs.run import Run
from luthier.types import Finding, Refused

MAX_NEW_TOKENS = 256
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the harness's order
OF_SAMPLING = {"top_k", "top_p", "min_p", "typical_p"}


class RunModel(LM):
    """Raises Refused where a run's model gives no probabilities of tokens."""

    def __init__(self, run: Run):
        super().__init__()
        predictor = run.predictor
        backbone = predictor.backbone
        if backbone.needs != "token_logits":
            what = f"the model of a run of `{run.info['task']}` does not write, and gives no token a probability"
            mend = "use `--data` with labelled rows, or a run of chat, complete, summarize, translate or answer"
            raise Refused(Finding("evaluate.task", str(run.folder), what, mend))
        self.run, self.tokenizer = run, backbone.tokenizer
        self.system = predictor.task.system if run.resolved.recipe.task == "chat" else None
        self.texts = Continuations(backbone, predictor.reader, predictor.task.terminators(backbone))

    @property
    def device(self) -> Any:
        return self.texts.backbone.device

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        found = self.texts.likelihoods([request.args for request in requests])
        return self._kept("loglikelihood", requests, found)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        found = self.texts.whole([text for (text,) in (request.args for request in requests)])
        return self._kept("loglikelihood_rolling", requests, found)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Neighbours with the same settings are written together."""
        found: list[str] = []
        for settings, prompts in _alike([request.args for request in requests]):
            found += self.texts.write(prompts, **settings)
        return self._kept("generate_until", requests, found)

    def _kept(self, kind: str, requests: Sequence[Any], found: list[Any]) -> list[Any]:
        """The answers, known to the harness's cache where it keeps one."""
        for request, one in zip(requests, found, strict=True):
            self.cache_hook.add_partial(kind, request.args, one)
        return found

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """By the run's own template, as it was rendered for training; a last turn that the assistant has only begun is
        without its end."""
        turns = with_system(list(chat_history), self.system)
        begun = "" if add_generation_prompt else turns.pop()["content"]
        return render(self.tokenizer, turns, add_generation_prompt=True, where="the task's turns").text + begun

    def chat_template(self, chat_template: bool | str = False) -> str:
        return template_of(self.tokenizer) if chat_template else ""

    @property
    def tokenizer_name(self) -> str:
        """Of the harness's cache of requests: the run, and what its template is."""
        told = hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()[:12]
        return f"{self.run.folder.name}-{told}"


def _alike(asked: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Settings of ``write``, with the prompts that follow one another under them."""
    for settings, group in groupby([(settings_of(wanted), prompt) for prompt, wanted in asked], key=lambda one: one[0]):
        yield settings, [prompt for _, prompt in group]


def settings_of(wanted: dict[str, Any]) -> dict[str, Any]:
    """A task's ``generation_kwargs`` in our words. Raises Refused for what we have no word for."""
    left = dict(wanted)
    until = left.pop("until", None) or []
    lengths = [value for value in (left.pop(name, None) for name in LENGTHS) if value is not None]
    temperature = float(left.pop("temperature", None) or 0.0)
    if not left.pop("do_sample", temperature > 0):
        temperature = 0.0
    if temperature == 0:
        left = {name: value for name, value in left.items() if name not in OF_SAMPLING}
    if left:
        what = f"this task writes with {', '.join(sorted(left))}"
        mend = "leave the task out, or give it generation_kwargs of until, max_gen_toks, do_sample and temperature"
        raise Refused(Finding("evaluate.generation", "--lm-eval", what, mend))
    return {
        "until": [until] if isinstance(until, str) else list(until),
        "max_new_tokens": int(lengths[0]) if lengths else MAX_NEW_TOKENS,
        "temperature": temperature,
    }
