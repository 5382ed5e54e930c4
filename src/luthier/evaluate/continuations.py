"""How likely a text is to a model after another, and what it writes up to a stop: what benchmark suites ask of a model.

    log p(y | x) = Σ_t log p(y_t | x, y_<t)      over the tokens of y; greedy: whether each of them is the argmax

Texts become ids as they do in training, virtual tokens and adapters are in force, rows are packed where they can be. A
text whose beginning has nothing before it is asked for after the begin-of-text token (or the end-of-text one, where
there is none), as in lm-evaluation-harness (Gao et al. 2021, doi 10.5281/zenodo.5371628).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from luthier.data.text.template import encode_text
from luthier.evaluate.generate import generate
from luthier.evaluate.outputs import Reader
from luthier.models.backbone import Backbone
from luthier.objectives import next_token
from luthier.types import Features, Finding, Refused

LONGEST = 2048  # tokens, where a model says nothing

Pair = tuple[list[int], list[int]]
"""The ids of a context, and of what is asked for after it."""


@dataclass
class Continuations:
    """``stop`` are ids that end what is written, beside the model's own; ``truncated`` counts contexts that were cut
    at their beginning, since they are longer than the model reads."""

    backbone: Backbone
    reader: Reader
    stop: Sequence[int] = ()
    truncated: int = 0

    @property
    def longest(self) -> int:
        """Tokens of a context with what follows it."""
        return self.backbone.max_positions or LONGEST

    @property
    def prefix(self) -> int:
        """What a text without a context begins after. Raises Refused where a tokenizer has no such token."""
        tokenizer = self.backbone.tokenizer
        found = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if found is None:
            what = "the tokenizer has no token that begins or ends a text"
            raise Refused(Finding("evaluate.prefix", "model.name", what, "evaluate a model that has one"))
        return int(found)  # type: ignore[call-overload]

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """(log-probability in nats, greedy) of the second text of each pair after the first. Raises Refused."""
        return self._scored([self._fitted(self.pair(*pair)) for pair in pairs])

    def whole(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each text, in nats; read in rows where it is too long for one. Raises Refused."""
        if self.backbone.encoder_decoder:
            what = "an encoder-decoder gives no text a probability without a source"
            raise Refused(Finding("evaluate.no-source", "model.name", what, "leave out tasks that ask for one"))
        rows = [(at, row) for at, text in enumerate(texts) for row in windows(self._ids(text), self.longest)]
        found = [0.0] * len(texts)
        for (at, _), (nats, _) in zip(rows, self._scored([row for _, row in rows]), strict=True):
            found[at] += nats
        return found

    def write(
        self, prompts: Sequence[str], *, until: Sequence[str] = (), max_new_tokens: int = 256, temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:  # fmt: skip
        """What follows each prompt, up to where the first text of ``until`` begins."""
        tokenizer, ends = self.backbone.tokenizer, [text for text in until if text]
        room = self.longest if self.backbone.encoder_decoder else max(1, self.longest - max_new_tokens)

        def text_of(ids: list[int]) -> str:
            return str(tokenizer.decode(ids, skip_special_tokens=True))

        def ended(ids: list[int]) -> bool:
            return any(end in text_of(ids) for end in ends)

        asked = [self._source(prompt) for prompt in prompts]
        self.truncated += sum(len(ids) > room for ids in asked)
        grown = generate(
            self.backbone, [ids[-room:] for ids in asked], max_new_tokens=max_new_tokens, temperature=temperature,
            seed=seed, stop=self.stop, ended=ended if ends else None,
        )  # fmt: skip
        texts = [text_of(ids) for ids in grown]
        return [text[: min([text.find(end) for end in ends if end in text], default=len(text))] for text in texts]

    def pair(self, context: str, continuation: str) -> Pair:
        """White space at the end of a context is taken to what follows: tokens begin with it, and don't end in it."""
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        if self.backbone.encoder_decoder:
            return self._source(bare), self._source(continuation, special=False)
        if not bare:
            whole = self._ids(continuation)
            return whole[:1], whole[1:]
        before = encode_text(self.backbone.tokenizer, bare, add_eos=False).input_ids
        return before, encode_text(self.backbone.tokenizer, bare + continuation, add_eos=False).input_ids[len(before) :]

    def _ids(self, text: str) -> list[int]:
        """A text's ids after the prefix, which is there once."""
        ids = encode_text(self.backbone.tokenizer, text, add_eos=False).input_ids
        return ids if ids[:1] == [self.prefix] else [self.prefix, *ids]

    def _source(self, text: str, *, special: bool = True) -> list[int]:
        """What a model writes from."""
        tokenizer = self.backbone.tokenizer
        if not self.backbone.encoder_decoder:
            return encode_text(tokenizer, text, add_eos=False).input_ids or [self.prefix]
        return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def _fitted(self, pair: Pair) -> Pair:
        context, continuation = pair
        room = self.longest if self.backbone.encoder_decoder else self.longest - len(continuation)
        if room < 1 or len(continuation) > self.longest:
            what = f"{len(continuation)} tokens are asked for, and the model reads {self.longest}"
            raise Refused(Finding("evaluate.too-long", "--lm-eval", what, "leave this task out"))
        self.truncated += len(context) > room
        return context[-room:], continuation

    def _scored(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        objective = next_token.Objective(next_token.Options(), self.backbone, None)
        rows = [self._row(at, pair) for at, pair in enumerate(pairs)]
        outputs = self.reader.outputs(objective, rows) if rows else []
        return [(-float(one["nll"]), one["right"] == one["tokens"]) for one in outputs]

    def _row(self, at: int, pair: Pair) -> Features:
        context, continuation = pair
        if self.backbone.encoder_decoder:
            return {"row": at, "weight": 1.0, "input_ids": context, "target_ids": continuation}
        supervised = [False] * len(context) + [True] * len(continuation)
        return {"row": at, "weight": 1.0, "input_ids": context + continuation, "supervised": supervised}


def windows(ids: list[int], longest: int) -> Iterator[Pair]:
    """Rows of at most ``longest`` of the ids: each but the first is asked for once, the last row with all the context
    that it has room for.

    Ids 0 to 9 in rows of 5:  0 | 1 2 3 4   4 | 5 6 7 8   5 6 7 8 | 9
    """
    at = 1
    while at < len(ids):
        end = min(len(ids), at - 1 + longest)
        yield ids[max(0, end - longest) : at], ids[at:end]
        at = end
